"""Vectors of output channels by the gather kernels: layers by themselves; networks in network.py.

fp32 (and tf32) numbers are sums of two halves with a power of two per tensor as scale; a value
beyond fp16's range in scaled form becomes infinite or NaN in the result, never silently wrong.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from csbench.backends.base import TORCH_DTYPE, Inside, LoweredConv
from csbench.backends.vector.layer import Layer, kind_of, why_not_at_all
from csbench.backends.vector.network import lower_network
from csbench.backends.vector.units import units_of
from csbench.core.case import Case
from csbench.errors import PatternError
from csbench.graph.program import Conv
from csbench.kernels import nvrtc
from csbench.kernels.gather import io
from csbench.kernels.gather.layout import Activation

__all__ = ["lower", "lower_network", "missing", "why_not"]

_FULL = 2.0**14  # where the largest magnitude of a tensor with a known bound is scaled to


def missing() -> str | None:
    """What keeps these kernels from running here, and how to get it."""
    return nvrtc.missing_hopper("these kernels are for Hopper GPUs (H100, H200)", "its copies need")


def why_not(conv: Conv, case: Case) -> str | None:
    """One sentence: the reason this layer cannot run here; None when it can."""
    reason = why_not_at_all(conv, case.batch)
    if reason is None and conv.pattern is not None:
        try:
            units_of(conv)
        except PatternError as error:
            return str(error)
    return reason


def lower(conv: Conv, case: Case) -> LoweredConv:
    """Pack the weights, choose a plan by measurement, and convert activations in every call.

    A network avoids the conversions (lower_network), and `inside` leaves them out. In fp32 each
    call finds scales from its input: a bound of the result follows from the largest |x| and the
    rows' sums of |w|.
    """
    layer = Layer(conv, units_of(conv), kind_of(case.dtype), case.batch, case.device)
    layer.choose()
    if layer.kind.planes == 2:
        enter, run = partial(_enter_split, layer), partial(_run_split, layer)
    else:
        one = torch.ones((), device=case.device)
        enter, run = partial(_enter, layer, one), partial(_run, layer)
    inside = Inside(enter, run, partial(_leave, TORCH_DTYPE[case.dtype]))
    return LoweredConv(
        run=inside, inside=inside, weight_bytes=layer.bytes, algorithm=layer.algorithm
    )


# x and residual as the kernels read them, what the result's numbers are multiplied by, and in fp32
# the scales, biases and limits that bring it there.
_Own = tuple[Activation | Tensor | None, ...]


def _enter(layer: Layer, one: Tensor, x: Tensor, residual: Tensor | None = None) -> _Own:
    added = None if residual is None else _packed(layer, residual, one)
    return _packed(layer, x, one), added, one


def _run(layer: Layer, x: Activation, residual: Activation | None, gain: Tensor) -> Activation:
    return layer.run(x, residual)


def _enter_split(layer: Layer, x: Tensor, residual: Tensor | None = None) -> _Own:
    peak = _peak(x)
    bound = layer.gain * peak + layer.bias_peak
    if residual is not None:
        bound = bound + _peak(residual)
    gain_x, gain_out = _FULL * _power_below(1 / peak), _FULL * _power_below(1 / bound)
    added = None if residual is None else _packed(layer, residual, gain_out)
    scale, bias = layer.unscale * (gain_out / gain_x), layer.bias * gain_out
    limit = None if layer.limit is None else layer.limit * gain_out
    return _packed(layer, x, gain_x), added, gain_out, scale, bias, limit


def _run_split(
    layer: Layer, x: Activation, residual: Activation | None, gain: Tensor, scale: Tensor,
    bias: Tensor, limit: Tensor | None,
) -> Activation:  # fmt: skip
    return layer.convolve(layer.plan, x, residual, scale, bias, limit=limit)


def _leave(
    dtype: torch.dtype, out: Activation, x: Activation, residual: Activation | None, gain: Tensor,
    *scales: Tensor | None,
) -> Tensor:  # fmt: skip
    return io.unpack(out, gain, dtype)


def _packed(layer: Layer, x: Tensor, gain: Tensor) -> Activation:
    return io.pack(x, layer.kind.planes, layer.kind.bf16, gain)


def _peak(x: Tensor) -> Tensor:
    """The largest finite |x| as float32, and a tiny number for a tensor of zeros.

    What is not finite stays so at any scale, and must not spoil that of the others.
    """
    low, high = torch.aminmax(x.nan_to_num(0.0, 0.0, 0.0))
    return torch.maximum(-low, high).float().clamp_min(1e-20)


def _power_below(x: Tensor) -> Tensor:
    """The largest power of two that is at most x."""
    return torch.exp2(torch.floor(torch.log2(x)))

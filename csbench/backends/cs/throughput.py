"""2:4 weights on a GPU at batch 16 and above: sparse tensor cores by wgmma (wgmma/conv.cu).

Groups of `cs` become neighbours by an order of the input channels, those of `nm` are neighbours.

fp32 (and tf32) numbers are sums of two halves with a power of two per tensor as scale; a value
beyond fp16's range in scaled form becomes infinite or NaN in the result, never silently wrong.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import torch
from torch import Tensor

from csbench.backends.base import TORCH_DTYPE, Inside, LoweredConv
from csbench.backends.cs.throughput_layer import FULL, Layer, kind_of, why_not_at_all
from csbench.backends.cs.throughput_network import lower_network
from csbench.core.case import Case
from csbench.graph.permute import joining
from csbench.graph.program import Conv
from csbench.kernels import nvrtc, two_of_four
from csbench.kernels.wgmma import launch

__all__ = ["lower", "lower_network", "missing", "why_not"]


def missing() -> str | None:
    """What keeps these kernels from running here, and how to get it."""
    return nvrtc.missing_hopper("the same pattern runs with --device cpu", "sparse wgmma needs")


def why_not(conv: Conv, case: Case) -> str | None:
    """The reason this layer cannot run here; None when it can. Without a pattern it runs dense."""
    reason = why_not_at_all(conv, case)
    if reason is None and conv.pattern is not None and not two_of_four.fits(_joined(conv).weight):
        return two_of_four.refusal(conv.pattern.family)
    return reason


def lower(conv: Conv, case: Case) -> LoweredConv:
    """Pack the weights, choose a tile by measurement, and convert activations in every call.

    A network avoids the conversions (lower_network), and `inside` leaves them out. In fp32 each
    call finds scales from its input: a bound of the result follows from the largest |x| and the
    rows' sums of |w|.
    """
    kind = kind_of(case.dtype, sparse=conv.pattern is not None)
    layer = Layer(_joined(conv), kind, case.device)
    places = launch.places(joining([conv.pattern])(conv.weight.shape[1]), case.device)
    x = torch.randn(case.batch, *conv.input_size, device=case.device)
    y = torch.randn(case.batch, *conv.output_size, device=case.device) if conv.residual else None
    one = torch.ones((), device=case.device)
    layer.choose(launch.pack(x, kind, one), None if y is None else launch.pack(y, kind, one))
    if kind.planes == 2:
        enter, run = partial(_enter_split, layer, places), partial(_run_split, layer)
    else:
        enter, run = partial(_enter, layer, places, one), partial(_run, layer)
    inside = Inside(enter, run, partial(_leave, layer, TORCH_DTYPE[case.dtype]))
    return LoweredConv(
        run=inside, inside=inside, weight_bytes=layer.stored_bytes, algorithm=layer.algorithm
    )


def _joined(conv: Conv) -> Conv:
    """The layer with its input channels in the order that makes its groups neighbours."""
    order = joining([conv.pattern])(conv.weight.shape[1])
    return dataclasses.replace(conv, weight=conv.weight[:, order])


# x and residual as packed activations, what the result's numbers are multiplied by, and in fp32
# the scales and biases that bring it there.
_Own = tuple[Tensor | None, ...]


def _enter(
    layer: Layer, places: Tensor, one: Tensor, x: Tensor, residual: Tensor | None = None
) -> _Own:
    return launch.pack(x, layer.kind, one, places), _packed(layer, residual, one), one


def _run(layer: Layer, x: Tensor, residual: Tensor | None, gain: Tensor) -> Tensor:
    return layer.run(x, residual)


def _enter_split(layer: Layer, places: Tensor, x: Tensor, residual: Tensor | None = None) -> _Own:
    peak = _peak(x)
    bound = layer.gain * peak + layer.bias_peak
    if residual is not None:
        bound = bound + _peak(residual)
    gain_x, gain_out = FULL * _power_below(1 / peak), FULL * _power_below(1 / bound)
    packed = launch.pack(x, layer.kind, gain_x, places)
    scale, bias = layer.unscale * (gain_out / gain_x), layer.bias * gain_out
    return packed, _packed(layer, residual, gain_out), gain_out, scale, bias


def _run_split(
    layer: Layer, x: Tensor, residual: Tensor | None, gain: Tensor, scale: Tensor, bias: Tensor
) -> Tensor:
    return layer.convolve(layer.tile, x, residual, scale, bias)


def _leave(
    layer: Layer, dtype: torch.dtype, out: Tensor, x: Tensor, residual: Tensor | None,
    gain: Tensor, *scales: Tensor,
) -> Tensor:  # fmt: skip
    return launch.unpack(out, layer.geometry.cout, layer.kind, gain, dtype)


def _packed(layer: Layer, x: Tensor | None, gain: Tensor) -> Tensor | None:
    return None if x is None else launch.pack(x, layer.kind, gain)


def _peak(x: Tensor) -> Tensor:
    """max |x| as float32, and a tiny number for a tensor of zeros."""
    low, high = torch.aminmax(x)
    return torch.maximum(-low, high).float().clamp_min(1e-20)


def _power_below(x: Tensor) -> Tensor:
    """The largest power of two that is at most x."""
    return torch.exp2(torch.floor(torch.log2(x)))

"""`cs` and `nm` on a GPU at batch 1 to 8: compressed weights, sparse tensor cores."""

from __future__ import annotations

import torch
from torch import Tensor

from csbench.backends.base import LoweredConv
from csbench.backends.cs import latency_layer as layers
from csbench.backends.cs.latency_network import lower_network
from csbench.backends.cs.latency_plan import prepare
from csbench.core.case import Case
from csbench.graph.program import Conv
from csbench.kernels import nvrtc
from csbench.kernels.latency import io
from csbench.kernels.latency.pack import Order

__all__ = ["lower", "lower_network", "missing", "why_not"]

# Activations of unknown magnitude: exact to fp32's class from about 1e-3 to 1e4.
_SCALE = 4.0


def missing() -> str | None:
    """What this machine lacks, and how to get it; None when ready."""
    if not torch.cuda.is_available():
        return "no CUDA device"
    if torch.cuda.get_device_capability() < (9, 0):
        return "needs a GPU of compute capability 9.0 (Hopper), for its bulk copy engine"
    return nvrtc.missing()


def why_not(conv: Conv, case: Case) -> str | None:
    """One sentence: the reason this layer cannot run here; None when it can."""
    return layers.why_not(conv, case)


def lower(conv: Conv, case: Case) -> LoweredConv:
    """The layer by itself: x is packed into planes, convolved, and comes back as floats."""
    split = case.dtype == "fp32"
    layer = layers.kernelize(conv, case.batch, conv.weight.shape[0])
    order, plain = layer.order, Order(conv.weight.shape[0], 1)
    out_order = plain if conv.residual else None
    if conv.residual:
        layer = layers.kernelize(conv, case.batch, plain.stored)
    prepared = prepare(layer, split, order, out_order, (_SCALE, _SCALE), case.device)
    convolution = prepared.convolution(prepared.ranked()[0])
    prepared.keep(str(convolution.plan))

    def run(x: Tensor, residual: Tensor | None = None) -> Tensor:
        packed = layers.pack_input(x, layer, order, split, _SCALE)
        out = prepared.output()
        if isinstance(out, Tensor):
            convolution.launch(packed, out)
            return out.permute(0, 3, 1, 2).to(x.dtype)
        assert residual is not None
        added = io.pack(layers.as_float(residual), split, plain, _SCALE)
        convolution.launch(packed, out, added)
        return io.unpack(out).to(x.dtype)

    return LoweredConv(
        run=run, weight_bytes=convolution.bytes, algorithm=f"latency {convolution.plan}"
    )

"""`cs` and `nm` on a GPU at batch 1 to 8: compressed weights, sparse tensor cores; and vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from csbench.backends.base import TORCH_DTYPE, Inside, LoweredConv
from csbench.backends.cs import latency_layer as layers
from csbench.backends.cs.latency_network import lower_network
from csbench.backends.cs.latency_plan import prepare
from csbench.core.case import Case
from csbench.graph.program import Conv
from csbench.kernels import nvrtc
from csbench.kernels.latency import io
from csbench.kernels.latency.io import Planes
from csbench.kernels.latency.pack import Order

__all__ = ["lower", "lower_network", "missing", "why_not"]

# Activations of unknown magnitude: exact to fp32's class from about 1e-3 to 1e4; fp16 as it is.
_SCALE = 4.0


def missing() -> str | None:
    """What this machine lacks, and how to get it; None when ready."""
    if not torch.cuda.is_available():
        return "no CUDA device; these kernels are for Hopper GPUs (H100, H200)"
    if torch.cuda.get_device_capability() < (9, 0):
        return "needs a GPU of compute capability 9.0 (Hopper), for its bulk copy engine"
    return nvrtc.missing()


def why_not(conv: Conv, case: Case) -> str | None:
    """One sentence: the reason this layer cannot run here; None when it can."""
    return layers.why_not(conv, case)


def lower(conv: Conv, case: Case) -> LoweredConv:
    """The layer by itself: x is packed into planes and convolved, the result unpacked to floats."""
    split = case.dtype == "fp32"
    out_order = Order(conv.weight.shape[0], 1)
    layer = layers.kernelize(conv, case.batch, out_order.stored)
    order = layer.order
    scale = 1.0 if case.dtype == "fp16" else _SCALE
    prepared = prepare(layer, split, order, out_order, (scale, scale), case.device)
    convolution = prepared.convolution(prepared.ranked()[0])
    prepared.keep(str(convolution.plan))

    def enter(x: Tensor, residual: Tensor | None = None) -> tuple[Planes, Planes | None]:
        packed = layers.pack_input(x, layer, order, split, scale)
        if residual is None:
            return packed, None
        return packed, io.pack(layers.as_float(residual), split, out_order, scale)

    def run(x: Planes, residual: Planes | None) -> Planes:
        out = prepared.output()
        assert isinstance(out, Planes)
        convolution.launch(x, out, residual)
        return out

    def leave(out: Planes, *own: object) -> Tensor:
        return io.unpack(out).to(TORCH_DTYPE[case.dtype])

    inside = Inside(enter, run, leave)
    return LoweredConv(
        run=inside, inside=inside, weight_bytes=convolution.bytes,
        algorithm=f"latency {convolution.plan}",
    )  # fmt: skip

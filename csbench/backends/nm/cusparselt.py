"""`nm-cusparselt`: 2:4 (1:2 in tf32) by NVIDIA's library, the fastest of all its algorithms.

`cs` runs here too: its groups become neighbours by an order of the channels.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from csbench.backends.base import (
    TORCH_DTYPE,
    Inside,
    LoweredConv,
    LoweredNetwork,
    as_it_is,
    layer_report,
)
from csbench.backends.chain import chain
from csbench.backends.dense.cudnn import Cudnn
from csbench.backends.nm.cusparselt_layer import Layer, nhwc
from csbench.backends.nm.cusparselt_search import choose, trials
from csbench.core.case import Case
from csbench.core.record import LayerReport
from csbench.graph.permute import joining, permute
from csbench.graph.program import Conv, Program
from csbench.kernels import two_of_four
from csbench.kernels.cusparselt import library

_MULTIPLE = {torch.float32: 8, torch.float16: 16, torch.bfloat16: 16}  # of channels, in and out


class NmCusparselt:
    """1x1 and linear layers as products of their NHWC activations, others by way of im2col."""

    name = "nm-cusparselt"
    patterns = frozenset({"nm", "cs"})
    devices = frozenset({"cuda"})
    dtypes = frozenset({"tf32", "fp16", "bf16"})

    def missing(self, device: str) -> str | None:
        return library.missing()

    def why_not(self, conv: Conv, case: Case) -> str | None:
        return _why_not(_joined(conv), case)

    def lower(self, conv: Conv, case: Case) -> LoweredConv:
        """The layer by itself: it brings the channels of `cs` into order before."""
        layer = Layer(_joined(conv), case)
        try:
            choose(layer, trials())
        finally:
            trials().end()  # see lower_network
        order = joining([conv.pattern])(conv.weight.shape[1])
        moved = not torch.equal(order, torch.arange(len(order)))
        index = order.to(case.device)

        def enter(x: Tensor, residual: Tensor | None = None) -> tuple[Tensor | None, ...]:
            x = nhwc(x, layer.dtype)
            return (
                (x.index_select(3, index) if moved else x).permute(0, 3, 1, 2),
                None if residual is None else nhwc(residual, layer.dtype).permute(0, 3, 1, 2),
            )

        inside = Inside(enter, layer.run, as_it_is)
        return LoweredConv(
            run=inside, inside=inside, weight_bytes=layer.bytes,
            workspace_bytes=layer.workspace_bytes, algorithm=layer.label,
        )  # fmt: skip

    def lower_network(self, program: Program, case: Case) -> LoweredNetwork | None:
        """Layers that fit by cuSPARSELt, the others by `cudnn`, all channels_last.

        None where no layer fits.
        """
        program = permute(program, joining(conv.pattern for conv in program.convolutions))
        try:
            made = [_lowered(conv, case) for conv in program.convolutions]
        finally:
            trials().end()  # nothing else holds memory of the device while it is measured
        if not any(report.ran == "sparse" for _, report in made):
            return None
        run, dtype = chain(program, [lowered for lowered, _ in made]), TORCH_DTYPE[case.dtype]

        def whole(x: Tensor) -> Tensor:
            return run(x.to(dtype).contiguous(memory_format=torch.channels_last))

        return LoweredNetwork(whole, tuple(report for _, report in made))


def _lowered(conv: Conv, case: Case) -> tuple[LoweredConv, LayerReport]:
    """A layer whose groups are neighbours, and what runs in it."""
    reason = "it carries no pattern" if conv.pattern is None else _why_not(conv, case)
    if reason is None:
        layer = Layer(conv, case)
        choose(layer, trials())
        lowered = LoweredConv(layer.run, layer.bytes, layer.workspace_bytes, layer.label)
    else:
        lowered = Cudnn().lower(conv, case)
    report = layer_report(conv, case, lowered.weight_bytes, lowered.algorithm, reason)
    return lowered, report


def _joined(conv: Conv) -> Conv:
    """The layer with its input channels in the order that makes its groups neighbours."""
    order = joining([conv.pattern])(conv.weight.shape[1])
    return dataclasses.replace(conv, weight=conv.weight[:, order])


def _why_not(conv: Conv, case: Case) -> str | None:
    """The reason why a layer whose groups are neighbours cannot run here."""
    dtype = TORCH_DTYPE[case.dtype]
    cout, cin, _, _ = conv.weight.shape
    kept, of = (1, 2) if dtype == torch.float32 else (2, 4)
    if conv.groups != 1:
        return f"cuSPARSELt multiplies matrices; this layer has {conv.groups} groups"
    if cin % _MULTIPLE[dtype] or cout % _MULTIPLE[dtype]:
        return f"cuSPARSELt takes multiples of {_MULTIPLE[dtype]} channels; it has {cin} and {cout}"
    if not two_of_four.fits(conv.weight, kept, of):
        named = "this layer" if conv.pattern is None else conv.pattern.family
        return f"cuSPARSELt takes {kept}:{of} in {case.dtype}; {named} keeps more of some"
    return None

"""`csr` on a GPU: csr/staged.cu, csr/direct.cu or cuSPARSE, whichever is fastest on a layer."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from csbench.backends.base import Inside, LoweredConv, alike
from csbench.backends.csr.layer import CsrLayer, shape_of
from csbench.core.case import Case
from csbench.graph.program import Conv
from csbench.kernels import nvrtc
from csbench.kernels.csr import candidates, launch
from csbench.kernels.csr.columns import Weight

MAX_WORDS = 2**31


def missing() -> str | None:
    """What this machine lacks, and how to get it; None when ready."""
    if not torch.cuda.is_available():
        return "no CUDA device; the same patterns run with --device cpu"
    if torch.cuda.get_device_capability() < (8, 0):
        return "needs a GPU of compute capability 8.0 (Ampere), for its asynchronous copies"
    return nvrtc.missing()


def why_not(conv: Conv, case: Case) -> str | None:
    """The reason this layer cannot run on these kernels; None when it can."""
    if conv.groups != 1:
        return f"the kernels take no grouped convolutions; this layer has {conv.groups} groups"
    shape = shape_of(conv, case)
    words = (shape.channels * shape.size[0] * shape.size[1] * shape.images,
             shape.rows * shape.pixels)  # fmt: skip
    if max(words) >= MAX_WORDS:
        return f"the kernels address 2^31 words; this layer at batch {case.batch} has more"
    return candidates.why_not(shape, Weight(conv.weight))


def lower(conv: Conv, case: Case) -> LoweredConv:
    """The layer by itself: halves are put side by side before, and taken apart again."""
    layer = CsrLayer(conv, case)
    name = layer.ranked()[0]
    layer.settle(name)

    def leave(out: Tensor, *own: Tensor) -> Tensor:
        return launch.from_words(out, case.batch, layer.dtype)

    enter = alike(partial(launch.to_words, dtype=layer.word))
    inside = Inside(enter, partial(layer.run, name), leave)
    return LoweredConv(
        run=inside, inside=inside, weight_bytes=layer.bytes, algorithm=layer.describe(name),
    )  # fmt: skip

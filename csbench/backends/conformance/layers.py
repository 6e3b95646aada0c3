"""Layers that are awkward to run, with weights that keep a pattern, and inputs for them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from csbench.backends.base import TORCH_DTYPE
from csbench.core.case import Case
from csbench.core.pattern import PatternSpec
from csbench.errors import PatternError
from csbench.graph.program import Activation, Conv, output_hw
from csbench.sparse.patterns import for_spec

Arrange = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Shape:
    """A layer without its weights; an odd kernel keeps the image size unless `padding` is given."""

    name: str
    outputs: int
    inputs: int
    kernel: tuple[int, int]
    image: tuple[int, int]
    batch: int = 1
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int] | None = None
    groups: int = 1
    activation: Activation = "relu"
    residual: bool = False
    sparsity: float = 0.75
    dead: bool = False  # the first eight output channels and one tap have no weight at all


SHAPES = (
    Shape("1x1", 64, 64, (1, 1), (14, 14)),
    Shape("3x3", 64, 64, (3, 3), (14, 14), batch=3),
    Shape("5x5", 32, 32, (5, 5), (9, 11), activation="none", sparsity=0.5),
    Shape("3x3 stride 2", 128, 64, (3, 3), (15, 15), stride=(2, 2), batch=2),
    Shape("1x1 stride 2", 128, 64, (1, 1), (15, 13), stride=(2, 2), activation="none"),
    Shape("3x3 dilation 2", 64, 64, (3, 3), (11, 11), dilation=(2, 2), padding=(2, 2)),
    Shape("3x3 unpadded", 64, 64, (3, 3), (9, 8), padding=(0, 0), batch=3, sparsity=0.5),
    Shape("3x1 stride 2x1", 64, 32, (3, 1), (9, 10), stride=(2, 1), activation="relu6"),
    Shape("linear", 48, 256, (1, 1), (1, 1), batch=3, activation="none", sparsity=0.875),
    Shape("linear batch 1", 1000, 128, (1, 1), (1, 1), activation="none"),
    Shape("3x3 on 1x1", 64, 64, (3, 3), (1, 1), batch=3),
    Shape("3x3 on 7x7", 128, 128, (3, 3), (7, 7), residual=True, batch=3, sparsity=0.9375),
    Shape("1x1 residual", 256, 64, (1, 1), (7, 7), residual=True),
    Shape("3x3 residual alone", 64, 64, (3, 3), (7, 9), residual=True, activation="none"),
    Shape("1x1 residual relu6", 64, 64, (1, 1), (5, 5), residual=True, activation="relu6"),
    Shape("ragged 3x3", 37, 40, (3, 3), (9, 9), batch=3, activation="relu6", sparsity=0.5),
    Shape("ragged 1x1", 24, 33, (1, 1), (5, 3), activation="none", batch=2),
    Shape("narrow", 5, 16, (3, 3), (6, 7), sparsity=0.5),
    Shape("stem", 16, 3, (7, 7), (19, 17), stride=(2, 2), sparsity=0.5),
    Shape("depthwise", 32, 32, (3, 3), (8, 8), groups=32, activation="relu6"),
    Shape("dead channels", 64, 64, (3, 3), (8, 8), dead=True, batch=2),
    Shape("3x3 batch 17", 64, 64, (3, 3), (6, 6), batch=17, sparsity=0.875),
    Shape("3x3 wide", 192, 96, (3, 3), (28, 28), sparsity=0.875),
    Shape("1x1 deep", 64, 512, (1, 1), (14, 14), sparsity=0.9375, residual=True),
    Shape("1x1 unpruned", 64, 64, (1, 1), (10, 10), sparsity=0.0),
)


@dataclass(frozen=True, eq=False)
class Trial:
    """One layer with its case, and inputs from a seed."""

    conv: Conv
    case: Case

    @property
    def name(self) -> str:
        return f"{self.conv.describe()}, batch {self.case.batch}"

    def inputs(self, seed: int, arrange: Arrange = lambda t: t) -> tuple[Tensor, ...]:
        """(x) or (x, residual) in the case's precision on its device, laid out by `arrange`."""
        generator = torch.Generator().manual_seed(seed)
        sizes = [self.conv.input_size] + [self.conv.output_size] * self.conv.residual
        dtype = TORCH_DTYPE[self.case.dtype]
        drawn = (torch.randn(self.case.batch, *size, generator=generator) for size in sizes)
        return tuple(arrange(x.to(self.case.device, dtype)) for x in drawn)


def trials(
    backend: str, baseline: str, device: str, dtype: str, spec: PatternSpec, seed: int
) -> Iterator[Trial]:
    """Every shape whose weights the pattern can divide; all of them for "dense"."""
    for shape in SHAPES:
        conv = _convolution(shape, spec, seed)
        if conv is None:
            continue
        sparsity = 0.0 if conv.pattern is None else conv.pattern.sparsity or 0.0
        yield Trial(
            conv,
            Case(
                task="layer", model="conformance", pattern=spec.family, sparsity=sparsity,
                backend=backend, baseline=baseline, device=device, dtype=dtype,
                batch=shape.batch, input=conv.input_size, layer=conv.name,
            ),
        )  # fmt: skip


def _convolution(shape: Shape, spec: PatternSpec, seed: int) -> Conv | None:
    generator = torch.Generator().manual_seed(seed + zlib.crc32(shape.name.encode()))
    inputs = shape.inputs // shape.groups
    weight = torch.randn(shape.outputs, inputs, *shape.kernel, generator=generator)
    weight /= math.sqrt(inputs * math.prod(shape.kernel))
    pruned = prune(weight, spec, shape.sparsity)
    if pruned is None:
        return None
    weight, pattern = pruned
    if shape.dead:
        weight[:8] = 0
        weight[:, :, 0, 0] = 0
    padding = shape.padding or (shape.kernel[0] // 2, shape.kernel[1] // 2)
    hw = output_hw(shape.image, shape.kernel, shape.stride, padding, shape.dilation)
    return Conv(
        name=shape.name, weight=weight, bias=torch.randn(shape.outputs, generator=generator) / 2,
        stride=shape.stride, padding=padding, dilation=shape.dilation, groups=shape.groups,
        activation=shape.activation, residual=shape.residual,
        input_size=(shape.inputs, *shape.image), output_size=(shape.outputs, *hw),
        pattern=pattern,
    )  # fmt: skip


def prune(
    weight: Tensor, spec: PatternSpec, sparsity: float
) -> tuple[Tensor, PatternSpec | None] | None:
    """The weight under the pattern, at its own sparsity or the given one; None if impossible."""
    if spec.name == "dense":
        return weight, None
    own = spec.own_sparsity
    try:
        exact = spec.at(sparsity if own is None else own)
        return weight * for_spec(exact).mask(weight), exact
    except PatternError:  # the pattern does not divide this shape
        return None

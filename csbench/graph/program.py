"""A network as steps over numbered values; convolutions are fused and everything else is torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from csbench.core.pattern import PatternSpec

Activation = Literal["none", "relu", "relu6"]


@dataclass(frozen=True, eq=False)
class Conv:
    """A fused convolution: activation(conv(x, weight) + bias [+ residual]).

    `weight` is float32 OIHW `[Cout, Cin / groups, kh, kw]` on the CPU with batch norm folded and
    zeros where it is pruned; `bias` is float32 `[Cout]`. Sizes are (channels, height, width).
    A linear layer is a 1x1 convolution on a 1x1 image. `pattern` is None on a layer that stays
    dense.
    """

    name: str
    weight: Tensor
    bias: Tensor
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    activation: Activation
    residual: bool
    input_size: tuple[int, int, int]
    output_size: tuple[int, int, int]
    pattern: PatternSpec | None = None

    @property
    def dense_flops(self) -> int:
        """Floating-point operations for one image, a multiply-add counted as two."""
        _, height, width = self.output_size
        return 2 * self.weight.numel() * height * width

    @property
    def sparse_flops(self) -> int:
        """The same, counting only the weights that are not zero."""
        _, height, width = self.output_size
        return 2 * int(self.weight.count_nonzero()) * height * width

    def describe(self) -> str:
        """A short line for messages: `layer1.0.conv2 64x64x3x3 on 56x56`."""
        shape = "x".join(str(n) for n in self.weight.shape)
        return f"{self.name} {shape} on {self.input_size[1]}x{self.input_size[2]}"


@dataclass(frozen=True, eq=False)
class Step:
    """One operation: `op` applied to the values numbered `inputs` gives value `output`.

    A Conv takes (x) or (x, residual). Anything else is a callable over tensors (pooling, flatten,
    an addition that could not be fused), the same for every backend.
    """

    op: Conv | Callable[..., Tensor]
    inputs: tuple[int, ...]
    output: int
    name: str


@dataclass(frozen=True, eq=False)
class Program:
    """Steps in order; value 0 is the input image batch, `result` the number of the output."""

    model: str
    input_size: tuple[int, int, int]
    steps: tuple[Step, ...]
    result: int

    @property
    def convolutions(self) -> tuple[Conv, ...]:
        return tuple(step.op for step in self.steps if isinstance(step.op, Conv))

    def last_use(self) -> dict[int, int]:
        """For each value the index of the last step that reads it, so that it can be freed."""
        uses = {value: i for i, step in enumerate(self.steps) for value in step.inputs}
        uses[self.result] = len(self.steps)
        return uses


def distinct(convolutions: tuple[Conv, ...]) -> dict[tuple[object, ...], list[Conv]]:
    """Convolutions grouped by everything that decides their time, in order of first appearance."""
    groups: dict[tuple[object, ...], list[Conv]] = {}
    for conv in convolutions:
        key = (
            tuple(conv.weight.shape), conv.stride, conv.padding, conv.dilation, conv.groups,
            conv.input_size, conv.activation, conv.residual, conv.pattern,
        )  # fmt: skip
        groups.setdefault(key, []).append(conv)
    return groups


def output_hw(
    size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int],
    padding: tuple[int, int], dilation: tuple[int, int],
) -> tuple[int, int]:  # fmt: skip
    """Height and width of a convolution's output."""
    height, width = (
        math.floor((n + 2 * p - d * (k - 1) - 1) / s) + 1
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    )
    return height, width

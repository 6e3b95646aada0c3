"""Layers for the tests of the gather kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from csbench.backends.vector.units import from_dense, from_vectors, vectors_of
from csbench.core.pattern import parse
from csbench.graph.program import Activation, Conv, output_hw
from csbench.kernels.gather.pack import Units
from csbench.sparse.patterns import for_spec


def layer(
    cin: int, cout: int, size: tuple[int, int], kernel: int = 1, stride: int = 1,
    dilation: int = 1, padding: int | None = None, activation: Activation = "relu",
    residual: bool = False, groups: int = 1,
) -> Conv:  # fmt: skip
    """A dense layer; by default an odd kernel keeps the image's size."""
    pads = kernel // 2 * dilation if padding is None else padding
    pair = ((kernel, kernel), (stride, stride), (pads, pads), (dilation, dilation))
    weight = torch.randn(cout, cin // groups, kernel, kernel) * (2 / (cin * kernel**2)) ** 0.5
    return Conv(
        name="layer", weight=weight, bias=torch.randn(cout), stride=pair[1], padding=pair[2],
        dilation=pair[3], groups=groups, activation=activation, residual=residual,
        input_size=(cin, *size), output_size=(cout, *output_hw(size, *pair)),
    )  # fmt: skip


def units_of(weight: Tensor, spec: str) -> tuple[Tensor, Units]:
    """The pruned weight and its units."""
    if spec == "dense":
        return weight, from_dense(weight)
    pattern = parse(spec)
    weight = weight * for_spec(pattern).mask(weight)
    return weight, from_vectors(vectors_of(weight, pattern))

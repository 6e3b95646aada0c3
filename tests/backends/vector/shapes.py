"""Layers for the tests of the gather kernels."""

from __future__ import annotations

import torch

from csbench.backends.vector.layer import shape_of
from csbench.graph.program import Activation, Conv, output_hw

shape = shape_of


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

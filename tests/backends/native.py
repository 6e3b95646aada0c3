"""Awkward convolutions for the compiled CPU kernels, and how far a result is from the reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import cycle
from typing import Any

import torch

from csbench.backends.base import LoweredConv
from csbench.backends.poison import poisoned
from csbench.core.case import Case
from csbench.core.pattern import PatternSpec
from csbench.graph import reference
from csbench.graph.program import Conv, output_hw
from csbench.sparse.patterns import for_spec
from tests.backends.cases import case, conv

IMAGES = ((1, 1), (7, 7), (13, 9), (14, 14), (5, 33))
# kernel, stride, padding, dilation
GEOMETRIES = (
    ((1, 1), (1, 1), (0, 0), (1, 1)), ((1, 1), (2, 2), (0, 0), (1, 1)),
    ((3, 3), (1, 1), (1, 1), (1, 1)), ((3, 3), (2, 2), (1, 1), (1, 1)),
    ((3, 3), (1, 1), (2, 2), (2, 2)), ((5, 5), (3, 3), (2, 2), (1, 1)),
    ((3, 1), (2, 1), (0, 0), (1, 1)), ((1, 1), (1, 1), (1, 1), (1, 1)),
)  # fmt: skip


def layers(spec: PatternSpec, cin: int, cout: int) -> Iterator[tuple[Conv, Case]]:
    """Every geometry on every image that it fits, in turns with batch, residual and activation."""
    turns = cycle([(1, "relu", True), (3, "none", False), (2, "relu6", True), (1, "relu6", False)])
    for kernel, stride, padding, dilation in GEOMETRIES:
        for image in IMAGES:
            hw = output_hw(image, kernel, stride, padding, dilation)
            if min(hw) < 1:
                continue
            batch, activation, residual = next(turns)
            layer = conv(
                weight=torch.randn(cout, cin, *kernel) / (cin * kernel[0] * kernel[1]) ** 0.5,
                bias=torch.randn(cout), stride=stride, padding=padding, dilation=dilation,
                activation=activation, residual=residual, input_size=(cin, *image),
                output_size=(cout, *hw),
            )  # fmt: skip
            yield pruned(layer, spec), case(batch=batch)


def pruned(layer: Conv, spec: PatternSpec) -> Conv:
    return dataclasses.replace(
        layer, weight=layer.weight * for_spec(spec).mask(layer.weight), pattern=spec
    )


def error(run: LoweredConv, layer: Conv, batch: int, **how: Any) -> float:
    """Relative error on fresh inputs, with the output buffer poisoned beforehand."""
    x = torch.randn(batch, *layer.input_size).contiguous(**how)
    residual = torch.randn(batch, *layer.output_size) if layer.residual else None
    with poisoned():
        out = run(x, residual)
    return reference.relative_error(out, reference.convolution(layer, x, residual))

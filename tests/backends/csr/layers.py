"""Layers and cases for the tests of csr: any zeros, on any device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from csbench.backends.base import TORCH_DTYPE
from csbench.backends.csr.cusparse import CuSparse
from csbench.backends.csr.layer import CsrLayer, word_of
from csbench.core.case import Case
from csbench.core.pattern import parse
from csbench.graph import reference
from csbench.graph.program import Activation, Conv, output_hw
from csbench.kernels.csr import launch
from csbench.kernels.csr.launch import Variant

ACTIVATIONS = ("none", "relu", "relu6")
TOLERANCE = {"fp32": 1e-6, "tf32": 1e-6, "fp16": 1e-3, "bf16": 8e-3}


def layer(
    cin: int, cout: int, kernel: tuple[int, int], size: tuple[int, int], *, density: float = 0.25,
    stride: tuple[int, int] = (1, 1), dilation: tuple[int, int] = (1, 1),
    padding: tuple[int, int] | None = None, groups: int = 1, activation: Activation = "relu",
    residual: bool = False, seed: int = 0,
) -> Conv:  # fmt: skip
    """By default an odd kernel keeps the image's size; the first rows have no weight at all."""
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(cout, cin // groups, *kernel, generator=draw)
    weight *= torch.rand(weight.shape, generator=draw) < density
    weight[: cout // 8] = 0
    weight *= (2 / max(1.0, weight[0].numel() * density)) ** 0.5
    if padding is None:
        padding = ((kernel[0] - 1) * dilation[0] // 2, (kernel[1] - 1) * dilation[1] // 2)
    out = output_hw(size, kernel, stride, padding, dilation)
    return Conv(
        "layer", weight, torch.randn(cout, generator=draw), stride, padding, dilation, groups,
        activation, residual, (cin, *size), (cout, *out), parse("unstructured"),
    )  # fmt: skip


def case(dtype: str = "fp32", batch: int = 3, device: str = "cpu") -> Case:
    return Case(
        model="layer", pattern="unstructured", sparsity=0.75, backend="csr", baseline="cudnn",
        device=device, dtype=dtype, batch=batch,
    )  # fmt: skip


def inputs(conv: Conv, given: Case, seed: int = 1) -> list[Tensor]:
    """[x] or [x, residual] in the case's precision on its device."""
    draw = torch.Generator().manual_seed(seed)
    sizes = [conv.input_size, conv.output_size] if conv.residual else [conv.input_size]
    kind = TORCH_DTYPE[given.dtype]
    drawn = (torch.randn(given.batch, *size, generator=draw) for size in sizes)
    return [x.to(given.device, kind) for x in drawn]


def error(variant: Variant, conv: Conv, given: Case) -> float:
    """Of one variant against float64, on an output that is NaN until it is written."""
    kind, tensors = TORCH_DTYPE[given.dtype], inputs(conv, given)
    words = [launch.to_words(t, word_of(given)) for t in tensors]
    y = words[0].new_full((len(words[0]), *conv.output_size, *words[0].shape[4:]), torch.nan)
    residual = words[1] if conv.residual else None
    launch.launch(
        variant, words[0], conv.bias.to(given.device), residual, y,
        ACTIVATIONS.index(conv.activation),
    )  # fmt: skip
    expected = reference.convolution(conv, *tensors)
    return reference.relative_error(launch.from_words(y, given.batch, kind), expected)


def by_cusparse(conv: Conv, given: Case) -> tuple[str, Tensor, Tensor]:
    """What csr says of cuSPARSE as it runs the layer, the result, and float64's."""
    made, tensors = CsrLayer(conv, given), inputs(conv, given)
    (name,) = (n for n, variant in made.variants.items() if isinstance(variant, CuSparse))
    out = made.run(name, *(launch.to_words(t, made.word) for t in tensors))
    got = launch.from_words(out, given.batch, made.dtype)
    return made.describe(name), got, reference.convolution(conv, *tensors)


AWKWARD: dict[str, dict[str, Any]] = {
    "1x1": {"cin": 33, "cout": 24, "kernel": (1, 1), "size": (6, 6)},
    "1x1, odd image": {"cin": 40, "cout": 37, "kernel": (1, 1), "size": (7, 7), "residual": True},
    "3x3": {"cin": 16, "cout": 20, "kernel": (3, 3), "size": (9, 11), "activation": "none"},
    "3x3, residual, relu6": {
        "cin": 12, "cout": 40, "kernel": (3, 3), "size": (7, 5), "residual": True,
        "activation": "relu6",
    },
    "1x1, strided": {"cin": 32, "cout": 16, "kernel": (1, 1), "size": (9, 8), "stride": (2, 2)},
    "3x3, strided": {
        "cin": 20, "cout": 16, "kernel": (3, 3), "size": (9, 12), "stride": (2, 2),
    },
    "dilated": {"cin": 16, "cout": 16, "kernel": (3, 3), "size": (8, 8), "dilation": (2, 2)},
    "unpadded": {"cin": 8, "cout": 9, "kernel": (3, 3), "size": (7, 9), "padding": (0, 0)},
    "uneven": {
        "cin": 9, "cout": 12, "kernel": (3, 1), "size": (9, 6), "stride": (2, 1),
        "padding": (1, 0),
    },
    "linear": {"cin": 128, "cout": 50, "kernel": (1, 1), "size": (1, 1), "activation": "none"},
    "without weights": {"cin": 8, "cout": 16, "kernel": (3, 3), "size": (5, 5), "density": 0.0},
    "dense": {"cin": 8, "cout": 16, "kernel": (3, 3), "size": (5, 5), "density": 1.0},
}  # fmt: skip

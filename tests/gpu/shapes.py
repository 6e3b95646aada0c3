"""Fused convolutions of awkward shapes, and memory that is NaN until it is written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from csbench.core.case import Case
from csbench.core.pattern import PatternSpec
from csbench.graph.program import Activation, Conv, output_hw

TOLERANCE = {"fp32": 1e-5, "tf32": 2e-3, "fp16": 1e-2, "bf16": 1e-2}


def convolution(
    cin: int, cout: int, kernel: tuple[int, int], size: tuple[int, int], *, stride: int = 1,
    dilation: int = 1, groups: int = 1, activation: Activation = "relu", residual: bool = False,
    block: tuple[int, int] = (32, 32), sparsity: float = 0.5, seed: int = 0,
) -> Conv:  # fmt: skip
    """A layer with "same" padding whose blocks are kept at random (rows keep different numbers)."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = block
    weight = torch.randn(cout, cin // groups, *kernel, generator=generator)
    grid = (-(-cout // rows), -(-cin // groups // columns), *kernel)
    kept = (torch.rand(grid, generator=generator) >= sparsity).float()
    kept = kept.repeat_interleave(rows, 0)[:cout].repeat_interleave(columns, 1)
    weight = weight * kept[:, : cin // groups] * (2 / weight[0].numel()) ** 0.5
    height, width = ((k - 1) * dilation // 2 for k in kernel)
    shape = ((stride, stride), (height, width), (dilation, dilation))
    out = output_hw(size, kernel, *shape)
    return Conv(
        "layer", weight, torch.randn(cout, generator=generator), *shape, groups, activation,
        residual, (cin, *size), (cout, *out), PatternSpec("block", block),
    )  # fmt: skip


def case(dtype: str = "fp32", batch: int = 3, device: str = "cuda") -> Case:
    return Case(
        model="layer", pattern="block", sparsity=0.5, backend="block-original", baseline="cudnn",
        device=device, dtype=dtype, batch=batch,
    )  # fmt: skip


AWKWARD: dict[str, dict[str, Any]] = {
    "3x3": {"cin": 64, "cout": 64, "kernel": (3, 3), "size": (14, 14)},
    "residual": {"cin": 64, "cout": 96, "kernel": (1, 1), "size": (7, 7), "residual": True},
    "strided, ragged rows, relu6": {
        "cin": 96, "cout": 72, "kernel": (3, 3), "size": (9, 11), "stride": 2,
        "activation": "relu6",
    },
    "ragged columns, odd channels": {
        "cin": 40, "cout": 50, "kernel": (1, 3), "size": (5, 8), "activation": "none",
        "residual": True,
    },
    "dilated": {"cin": 64, "cout": 64, "kernel": (3, 3), "size": (7, 7), "dilation": 2},
    "linear": {
        "cin": 256, "cout": 1000, "kernel": (1, 1), "size": (1, 1), "activation": "none",
    },
    "strided 1x1": {"cin": 64, "cout": 128, "kernel": (1, 1), "size": (9, 9), "stride": 2},
    "empty": {"cin": 64, "cout": 64, "kernel": (3, 3), "size": (6, 6), "sparsity": 1.0},
}  # fmt: skip


@contextlib.contextmanager
def poisoned_memory() -> Iterator[None]:
    """torch.empty gives NaN, so that an output that is not written shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = filled
        torch.use_deterministic_algorithms(False)

"""The block kernels' own source against float64, on a CPU (tests/kernels/host)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from csbench.backends.block import cutlass_tile, tile
from csbench.backends.block.cutlass_layer import CutlassLayer
from csbench.backends.block.gpu import BlockLayer
from csbench.backends.block.measured import MeasuredLayer
from csbench.graph import reference
from csbench.graph.program import Conv
from tests.gpu.shapes import TOLERANCE, case, convolution, poisoned_memory
from tests.kernels.host import host

pytestmark = host.needs_gxx

SHAPES = {
    "3x3": convolution(64, 64, (3, 3), (5, 6), residual=True),
    "strided, ragged rows": convolution(
        40, 40, (3, 3), (7, 9), stride=2, activation="relu6", residual=True
    ),
    "1x1": convolution(64, 96, (1, 1), (9, 8)),
    "odd channels": convolution(32, 45, (1, 1), (4, 5), activation="none", residual=True),
    "dilated": convolution(64, 32, (3, 3), (6, 7), dilation=2),
}
# Lane pixels, warps, teams, channels a step in fp32, stages, cluster.
ORIGINAL = {
    "from registers": (4, 2, 1, 16, 2, 1),
    "teams": (2, 1, 4, 8, 3, 1),
    "cluster": (1, 2, 1, 16, 3, 4),
    "teams and cluster": (2, 2, 2, 32, 2, 2),
}
# Rows, channels a step, lane pixels, warps, cluster.
CUTLASS = {
    "small": (32, 32, 2, 1, 1),
    "two boxes": (32, 16, 8, 4, 1),
    "cluster": (32, 32, 2, 2, 4),
    "many laps of a cluster": (32, 16, 8, 2, 2),
    "joined rows": (64, 32, 2, 2, 2),
}
# Rows, channels a step, lane pixels, warps.
PERSISTENT = {
    "one warp": (32, 16, 2, 1),
    "two warps": (32, 16, 2, 2),
    "one step in a block": (32, 32, 2, 2),
    "two boxes": (32, 16, 8, 4),
    "joined rows": (64, 16, 2, 2),
}
WALKED = {
    "one row keeps nothing": convolution(
        64, 96, (1, 1), (11, 13), sparsity=0.75, residual=True, seed=3
    ),
    "nothing is kept": convolution(64, 64, (1, 1), (19, 31), sparsity=1.0, residual=True),
    "many tiles, ragged": convolution(32, 36, (3, 3), (19, 31), residual=True),
    "rows are alike": convolution(32, 64, (1, 1), (19, 31), sparsity=0.0, activation="none"),
}


@pytest.fixture(autouse=True)
def _on_the_host(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    host.install(monkeypatch)
    with poisoned_memory():
        yield


def error(kernel: type[MeasuredLayer], chosen: object, conv: Conv, dtype: str) -> float:
    given = case(dtype, batch=2, device="cpu")
    layer = kernel(conv, given)
    generator = torch.Generator().manual_seed(3)
    x, residual = (
        torch.randn(2, *size, generator=generator).to(layer.dtype)
        for size in (conv.input_size, conv.output_size)
    )
    residual = residual if conv.residual else None
    return reference.relative_error(
        layer.run(chosen, x, residual), reference.convolution(conv, x, residual)
    )


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, "fp32") for name in ORIGINAL),
        *(("teams and cluster", dtype) for dtype in ("tf32", "fp16", "bf16")),
        ("from registers", "fp16"),
    ],
)
def test_original_equals_the_reference(name: str, dtype: str) -> None:
    lane_pixels, warps, teams, depth, stages, cluster = ORIGINAL[name]
    precision = tile.PRECISIONS[dtype]
    chosen = tile.Tile(
        32, 32, lane_pixels, warps, teams, depth if precision == 0 else 32, stages, precision,
        cluster,
    )  # fmt: skip
    assert chosen.fits
    for shape, conv in SHAPES.items():
        assert error(BlockLayer, chosen, conv, dtype) < TOLERANCE[dtype], shape


@host.needs_cutlass
@pytest.mark.parametrize("name", CUTLASS)
def test_cutlass_in_fp32_equals_the_reference(name: str) -> None:
    """Tensor cores have no stand-in here; all else of the kernel is the same in fp16."""
    rows, depth, lane_pixels, warps, cluster = CUTLASS[name]
    chosen = cutlass_tile.Tile(rows, depth, lane_pixels, warps, "fp32", cluster)
    shapes = SHAPES
    if rows > 32:
        shapes = {"unpruned": convolution(64, 128, (3, 3), (4, 7), sparsity=0.0, residual=True)}
    for shape, conv in shapes.items():
        assert error(CutlassLayer, chosen, conv, "fp32") < TOLERANCE["fp32"], shape


@host.needs_cutlass
@pytest.mark.parametrize("name", PERSISTENT)
def test_persistent_blocks_equal_the_reference(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On one multiprocessor, so that every block walks tiles, the last one ragged."""
    monkeypatch.setattr(cutlass_tile, "multiprocessors", lambda: 1)
    chosen = cutlass_tile.Tile(*PERSISTENT[name], "fp32", persistent=True)
    shapes = {**WALKED, **{n: conv for n, conv in SHAPES.items() if conv.output_size[0] % 4 == 0}}
    if chosen.rows > 32:
        shapes = {"unpruned": convolution(64, 128, (3, 3), (9, 17), sparsity=0.0, residual=True)}
    for shape, conv in shapes.items():
        assert error(CutlassLayer, chosen, conv, "fp32") < TOLERANCE["fp32"], shape


@pytest.mark.parametrize(
    ("kernel", "chosen"),
    [
        (BlockLayer, tile.Tile(32, 32, 2, 1, 4, 8, 3, 0)),
        pytest.param(
            CutlassLayer, cutlass_tile.Tile(32, 32, 2, 1, "fp32"), marks=host.needs_cutlass
        ),
    ],
    ids=["original", "cutlass"],
)
def test_nan_is_not_hidden_by_relu(kernel: type[MeasuredLayer], chosen: object) -> None:
    layer = kernel(convolution(32, 32, (1, 1), (4, 4), sparsity=0.0), case(batch=1, device="cpu"))
    x = torch.randn(1, 32, 4, 4)
    x[0, 5, 2, 3] = float("nan")
    out = layer.run(chosen, x)
    assert out[0, :, 2, 3].isnan().all()
    assert out.isnan().sum() == 32

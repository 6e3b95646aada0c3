"""cutlass/block.cu against float64 on awkward shapes with every tile, and what nvcc says of it."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from csbench.backends.block import cutlass_tile
from csbench.backends.block.cutlass import BlockCutlass
from csbench.backends.block.cutlass_layer import ARCHITECTURE, CutlassLayer
from csbench.backends.block.cutlass_tile import PERSISTENT, Tile, tiles
from csbench.backends.dense.algorithms import TORCH_DTYPE, sample
from csbench.graph import reference
from csbench.graph.program import Conv
from csbench.kernels.cutlass import nvcc
from tests.gpu.shapes import AWKWARD, TOLERANCE, case, convolution, poisoned_memory
from tests.kernels.compiled import Compiled, needs_nvcc

SHAPES = {
    **AWKWARD,
    "unpruned 3x3": {
        "cin": 128, "cout": 256, "kernel": (3, 3), "size": (9, 11), "stride": 2, "sparsity": 0.0,
        "residual": True,
    },
    "unpruned 1x1": {
        "cin": 256, "cout": 512, "kernel": (1, 1), "size": (14, 14), "sparsity": 0.0,
        "residual": True,
    },
    "16x16 blocks": {"cin": 48, "cout": 80, "kernel": (3, 3), "size": (5, 9), "block": (16, 16)},
}  # fmt: skip

# For blocks that walk tiles. Output channels are whole pieces of 16 bytes.
WALKED = {
    "ragged rows and tiles": {
        "cin": 96, "cout": 72, "kernel": (3, 3), "size": (45, 53), "stride": 2, "residual": True,
        "activation": "relu6",
    },
    "1x1, a row of nothing": {
        "cin": 64, "cout": 96, "kernel": (1, 1), "size": (29, 31), "sparsity": 0.9,
        "residual": True,
    },
    "no residual": {
        "cin": 64, "cout": 36, "kernel": (1, 1), "size": (31, 29), "activation": "none",
    },
    "dilated": {"cin": 64, "cout": 64, "kernel": (3, 3), "size": (30, 30), "dilation": 2},
    "nothing": {
        "cin": 64, "cout": 64, "kernel": (3, 3), "size": (26, 30), "sparsity": 1.0,
        "residual": True,
    },
    "unpruned": {
        "cin": 64, "cout": 256, "kernel": (1, 1), "size": (29, 31), "sparsity": 0.0,
        "residual": True,
    },
    "less than a tile": {"cin": 64, "cout": 64, "kernel": (3, 3), "size": (3, 5)},
}  # fmt: skip

backend = BlockCutlass()


def ready() -> None:
    if (missing := backend.missing("cuda")) is not None:
        pytest.skip(missing)


def errors(
    conv: Conv, dtype: str, seed: int, chosen: Mapping[str, Tile] | None = None
) -> dict[str, float]:
    """The error of every tile, or of the chosen ones, each compiled first, side by side."""
    layer = CutlassLayer(conv, case(dtype))
    chosen = chosen or layer.tiles
    CutlassLayer.compile_all(chosen.values())
    generator = torch.Generator("cuda").manual_seed(seed)
    kind = TORCH_DTYPE[dtype]
    x = torch.randn(3, *conv.input_size, device="cuda", generator=generator).to(kind)
    residual = None
    if conv.residual:
        residual = torch.randn(3, *conv.output_size, device="cuda", generator=generator).to(kind)
    expected = reference.convolution(conv, x, residual)
    with poisoned_memory():
        return {
            name: reference.relative_error(layer.run(tile, x, residual), expected)
            for name, tile in chosen.items()
        }


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_tile_equals_the_reference(shape: str, dtype: str) -> None:
    ready()
    for seed in (1, 2):
        wrong = {
            name: error
            for name, error in errors(convolution(**SHAPES[shape], seed=seed), dtype, seed).items()
            if not error < TOLERANCE[dtype]
        }
        assert not wrong


@pytest.mark.gpu
@pytest.mark.parametrize("processors", [1, 2, 132])
@pytest.mark.parametrize("shape", WALKED)
def test_persistent_blocks_equal_the_reference(
    shape: str, processors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In as many blocks as run on so many multiprocessors: they walk many tiles, a few, or one."""
    ready()
    monkeypatch.setattr(cutlass_tile, "multiprocessors", lambda: processors)
    for seed in (1, 2):
        conv = convolution(**WALKED[shape], seed=seed)
        wide = [rows for rows in PERSISTENT if rows == 32 or shape == "unpruned"]
        chosen = {
            str(tile): tile for rows in wide for tile in tiles(rows, 32, "fp32", persistent=True)
        }
        found = errors(conv, "fp32", seed, chosen)
        assert not {name: error for name, error in found.items() if not error < TOLERANCE["fp32"]}


FULL = {
    "3x3": convolution(256, 256, (3, 3), (28, 28), stride=2, sparsity=0.9),
    "few steps": convolution(64, 256, (1, 1), (28, 28), residual=True),
}


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", FULL)
def test_every_tile_ends_where_the_device_is_full(shape: str, dtype: str) -> None:
    """Launches that overlap, in more blocks than run at once; and blocks past the last image."""
    ready()
    conv, given = FULL[shape], case(dtype, batch=64)
    layer = CutlassLayer(conv, given)
    assert any(t.persistent for t in layer.tiles.values()) == (dtype == "fp32")
    x, residual = sample(conv, given, "NHWC")
    expected = reference.convolution(conv, x, residual)
    assert len(layer.ranked(conv, given)) == len(layer.tiles)
    for name, tile in layer.tiles.items():
        error = reference.relative_error(layer.run(tile, x, residual), expected)
        assert error < TOLERANCE[dtype], name


@pytest.mark.gpu
def test_lowered_layer_takes_any_memory_format_and_can_be_captured() -> None:
    ready()
    conv = convolution(64, 64, (3, 3), (14, 14), residual=True)
    lowered = backend.lower(conv, case(batch=2))
    x, residual = (torch.randn(2, 64, 14, 14, device="cuda") for _ in range(2))
    eager = lowered(x, residual.contiguous(memory_format=torch.channels_last))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = lowered(x, residual)
    x.copy_(torch.randn_like(x))
    graph.replay()
    expected = reference.convolution(conv, x, residual)
    assert reference.relative_error(captured, expected) < TOLERANCE["fp32"]
    assert reference.relative_error(eager, expected) > 0.1
    assert lowered.weight_bytes <= 1.2 * (conv.weight.count_nonzero() * 4 + 4096)


@pytest.mark.gpu
def test_nan_is_not_hidden_by_relu() -> None:
    ready()
    conv = convolution(32, 32, (1, 1), (4, 4), sparsity=0.0)
    x = torch.randn(3, 32, 4, 4, device="cuda")
    x[1, 5, 2, 3] = float("nan")
    out = backend.lower(conv, case())(x)
    assert out[1, :, 2, 3].isnan().all()
    assert out.isnan().sum() == 32


@needs_nvcc
@pytest.mark.skipif(nvcc.headers() is None, reason="no CUTLASS headers")
@pytest.mark.parametrize(
    "tile",
    [
        Tile(32, 16, 8, 4, "fp32"),
        Tile(32, 32, 4, 4, "tf32"),
        Tile(128, 64, 2, 8, "fp16"),
        Tile(256, 64, 1, 8, "bf16"),
        *(tile for rows in PERSISTENT for tile in tiles(rows, 32, "fp32", persistent=True)),
    ],
    ids=str,
)
def test_kernel_compiles_without_spills_or_waits(tile: Tile, tmp_path: Path) -> None:
    """A register that ptxas does not see through makes every wgmma wait for the one before."""
    call = nvcc.command(tile.source, tile.options, ARCHITECTURE, tmp_path / "kernel.cubin")
    done = subprocess.run([*call, "-Xptxas", "-v"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Compiled(done.stderr).spilled == 0, done.stderr
    assert "wgmma.mma_async instructions are serialized" not in done.stderr

"""block.cu against float64 on awkward shapes with every tile, and its host side without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from csbench.backends.block import gpu as gpu_block
from csbench.backends.block import tile as block_tile
from csbench.backends.dense.algorithms import TORCH_DTYPE
from csbench.graph import reference
from tests.gpu.shapes import AWKWARD, TOLERANCE, case, convolution, poisoned_memory
from tests.kernels.compiled import ARCHITECTURES, compiled, needs_nvcc

BLOCKS = [(32, 32), (16, 16), (64, 64), (8, 8), (4, 4), (128, 64), (64, 32)]
# Bytes of the largest tile. In tf32 its numbers are twice as large as halves; the search times it
# beside smaller ones.
SPILL_LIMIT = {"fp32": 0, "tf32": 96, "fp16": 0, "bf16": 0}
SHAPES = {
    **AWKWARD,
    # Eight kept blocks, so every split is even: racecheck counts the named barriers that a thread
    # has passed, and finds a race wherever teams pass different numbers of them.
    "equal shares": {
        "cin": 56, "cout": 70, "kernel": (1, 4), "size": (5, 8), "sparsity": 0.0, "residual": True,
    },
}  # fmt: skip


def worst_error(conv, dtype: str, tiles=None) -> float:
    layer = gpu_block.BlockLayer(conv, case(dtype))
    generator = torch.Generator("cuda").manual_seed(1)
    kind = TORCH_DTYPE[dtype]
    x = torch.randn(3, *conv.input_size, device="cuda", generator=generator).to(kind)
    residual = None
    if conv.residual:
        residual = torch.randn(3, *conv.output_size, device="cuda", generator=generator).to(kind)
    expected = reference.convolution(conv, x, residual)
    with poisoned_memory():
        return max(
            reference.relative_error(layer.run(tile, x, residual), expected)
            for tile in (tiles or layer.tiles.values())
        )


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_tile_equals_the_reference(shape: str, dtype: str) -> None:
    conv = convolution(**SHAPES[shape])
    gpu_block.BlockLayer.compile_all(gpu_block.BlockLayer(conv, case(dtype)).tiles.values())
    assert worst_error(conv, dtype) < TOLERANCE[dtype]


@pytest.mark.gpu
@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: f"{b[0]}x{b[1]}")
def test_other_blocks_equal_the_reference(block: tuple[int, int]) -> None:
    conv = convolution(128, 128, (3, 3), (6, 6), block=block, residual=True)
    tiles = list(gpu_block.BlockLayer(conv, case()).tiles.values())
    assert worst_error(conv, "fp32", tiles[:: max(1, len(tiles) // 6)]) < TOLERANCE["fp32"]


@pytest.mark.gpu
def test_lowered_layer_takes_any_memory_format_and_can_be_captured() -> None:
    conv = convolution(64, 64, (3, 3), (14, 14), residual=True)
    lowered = gpu_block.lower(conv, case(batch=2))
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
    conv = convolution(32, 32, (1, 1), (4, 4), sparsity=0.0)
    x = torch.randn(3, 32, 4, 4, device="cuda")
    x[1, 5, 2, 3] = float("nan")
    out = gpu_block.lower(conv, case())(x)
    assert out[1, :, 2, 3].isnan().all()
    assert out.isnan().sum() == 32


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (convolution(64, 64, (3, 3), (8, 8), groups=2), "2 groups"),
        (convolution(3, 64, (3, 3), (8, 8)), "this layer has 3"),
        (convolution(32, 32, (7, 7), (8, 8)), "this layer has 49"),
        (convolution(64, 64, (1, 1), (8, 8), block=(24, 32)), "no blocks of 24x32"),
    ],
)
def test_why_not_names_the_limit(layer, reason: str) -> None:
    assert reason in gpu_block.why_not(layer, case())
    assert gpu_block.why_not(convolution(64, 64, (3, 3), (8, 8)), case()) is None


def test_entries_point_at_the_blocks() -> None:
    conv = convolution(40, 32, (3, 3), (5, 7), sparsity=0.5)
    layer = gpu_block.BlockLayer(conv, case(device="cpu"))
    window = torch.arange(3 * 7 * 40)  # element numbers of three image lines, channels last
    for (offset, packed), values in zip(layer.blocks.tolist(), layer.values, strict=True):
        tap, present = packed & 31, packed >> 5
        channel = offset % 40
        assert present == min(32, 40 - channel)
        assert window[offset] == (tap // 3 * 7 + tap % 3) * 40 + channel
        expected = conv.weight[:, channel : channel + present, tap // 3, tap % 3].t()
        assert torch.equal(values[:present], expected)


@pytest.mark.parametrize("dtype", block_tile.PRECISIONS)
def test_candidates_are_few_and_fit(dtype: str) -> None:
    found = block_tile.candidates(
        32, 32, block_tile.PRECISIONS[dtype], block_rows=16, kept=9, positions=49
    )
    assert 5 < len(found) < 120
    assert len({str(tile) for tile in found}) == len(found)
    assert all(tile.cluster * tile.teams <= 9 * tile.slices for tile in found)


@needs_nvcc
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("dtype", block_tile.PRECISIONS)
def test_kernel_compiles_without_spills(dtype: str, arch: str, tmp_path: Path) -> None:
    largest = max(
        block_tile.tiles(32, 32, block_tile.PRECISIONS[dtype]),
        key=lambda t: (t.lane_pixels, t.teams),
    )
    found = compiled(gpu_block.SOURCE, largest.options, arch, tmp_path)
    assert found.spilled <= SPILL_LIMIT[dtype], found.log

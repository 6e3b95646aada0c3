"""`block-cutlass` without a GPU: tiles, packed bytes, and what it says it cannot run."""

from __future__ import annotations

import pytest
import torch

from csbench.backends.block import cutlass_layer
from csbench.backends.block.cutlass_layer import CutlassLayer
from csbench.backends.block.cutlass_tile import (
    MAX_STAGES,
    MOST_KEPT,
    PERSISTENT,
    REGISTERS,
    RESERVED,
    SHARED,
    SIMT,
    TENSOR,
    candidates,
    deepest,
    tiles,
)
from csbench.backends.block.tile import multiprocessors
from csbench.core.case import DTYPES
from csbench.sparse.formats import VALUE_BYTES
from tests.gpu.shapes import case, convolution

SHARED_LIMIT = 227 * 1024  # bytes of one thread block on Hopper


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [16, 32, 64, 128])
def test_every_tile_fits_a_multiprocessor(dtype: str, channels: int) -> None:
    for rows in SIMT if dtype == "fp32" else TENSOR:
        for tile in tiles(rows, channels, dtype):
            assert 2 <= tile.stages <= MAX_STAGES, tile
            assert tile.shared_bytes(tile.stages) <= SHARED_LIMIT, tile
            assert tile.threads * tile.registers * tile.resident <= 65536, tile
            assert channels % tile.depth == 0
            assert tile.depth * VALUE_BYTES[dtype] in (32, 64, 128)


@pytest.mark.parametrize("channels", [8, 16, 32, 64])
def test_persistent_blocks_run_all_at_once(channels: int) -> None:
    """Two stages at least: the second step is asked for while the first is multiplied."""
    found = [t for rows in PERSISTENT for t in tiles(rows, channels, "fp32", persistent=True)]
    assert found
    for tile in found:
        shared = tile.shared_bytes(tile.stages)
        assert 2 <= tile.stages <= MAX_STAGES, tile
        assert shared <= SHARED_LIMIT, tile
        assert tile.resident * (shared + RESERVED) <= SHARED, tile
        assert tile.resident * tile.threads * tile.registers <= REGISTERS, tile
        assert tile.resident * tile.warps % 4 == 0, tile
    assert not list(tiles(32, 32, "fp16", persistent=True))


@pytest.mark.parametrize("outputs", [64, 256, 1000, 2048])
@pytest.mark.parametrize("kept", [1, 16, 17])
@pytest.mark.parametrize("positions", [3136, 12544, 200704])
def test_persistent_blocks_have_a_next_tile(positions: int, kept: int, outputs: int) -> None:
    found = candidates((32,), 32, "fp32", outputs=outputs, kept=kept, positions=positions)
    walking = [tile for tile in found if tile.persistent]
    rows = -(-outputs // 32)
    for tile in walking:
        grid = tile.grid(rows, positions)
        assert grid % rows == 0  # a block stays in its row
        assert grid <= multiprocessors() * tile.resident
        assert grid < rows * -(-positions // tile.pixels)
        assert kept * 32 <= MOST_KEPT
    pixels = min(t.pixels * t.resident for t in tiles(32, 32, "fp32", persistent=True))
    more_than_a_wave = rows * positions > pixels * multiprocessors()
    assert bool(walking) == (kept <= 16 and more_than_a_wave), walking


def test_persistent_blocks_store_whole_pieces() -> None:
    """The copy engine takes lines of a multiple of 16 bytes; and narrow rows read too often."""

    def walking(rows: tuple[int, ...], outputs: int) -> set[int]:
        found = candidates(rows, 32, "fp32", outputs=outputs, kept=2, positions=200704)
        return {tile.rows for tile in found if tile.persistent}

    assert walking((32,), 254) == set()
    assert walking((32,), 252) == {32}
    assert walking((32, 64, 128), 256) == {64, 128}


def test_deepest_is_a_row_of_a_swizzle() -> None:
    assert [deepest(c, "fp16") for c in (128, 64, 48, 32, 16, 8)] == [64, 64, 16, 32, 16, 0]
    assert [deepest(c, "fp32") for c in (64, 32, 16, 8, 4)] == [32, 32, 16, 8, 0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [(16,), (32,), (32, 64, 128), (128,)])
@pytest.mark.parametrize("positions", [1, 49, 3136, 802816])
def test_candidates_are_few_and_never_none(
    positions: int, rows: tuple[int, ...], dtype: str
) -> None:
    found = candidates(rows, 32, dtype, outputs=512, kept=9, positions=positions)
    assert 0 < len(found) < 80, found
    assert len({str(tile) for tile in found}) == len(found)
    assert all(tile.cluster <= 9 * 32 // tile.depth for tile in found)
    for tile in found:
        blocks = -(-512 // tile.rows) * -(-positions // tile.pixels) * tile.cluster
        assert tile.cluster == 1 or blocks <= multiprocessors(), tile
    if positions == 802816:
        assert all(tile.cluster == 1 for tile in found)
        assert all(tile.rows * tile.pixels >= 4096 for tile in found if not tile.persistent)


@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_blocks_decode(dtype: str) -> None:
    """Read as the copy engine would write them: piece p of line r lies at p ^ (r's place)."""
    conv = convolution(96, 64, (3, 3), (5, 7), sparsity=0.5)
    values, blocks, offsets, _ = cutlass_layer.pack(conv, (32, 32), dtype, "cpu")
    row_of = torch.arange(2).repeat_interleave(offsets.diff())
    for row, entry, block in zip(row_of, blocks.tolist(), values, strict=True):
        channel, across, down = entry & 0xFFFF, entry >> 16 & 0xFF, entry >> 24
        expected = conv.weight[row * 32 : row * 32 + 32, channel : channel + 32, down, across]
        if dtype == "fp32":
            got = block.t()
        else:
            piece = 16 // VALUE_BYTES[dtype]
            count = 32 // piece
            lines = block[0].unflatten(1, (count, piece))
            got = torch.stack(
                [
                    torch.cat([lines[r, p ^ (r * count // 8 % count)] for p in range(count)])
                    for r in range(32)
                ]
            )
        assert torch.allclose(got.float(), expected, rtol=8e-3)


def test_an_unpruned_layer_joins_its_rows() -> None:
    dense, sparse = (
        CutlassLayer(
            convolution(256, 256, (1, 1), (14, 14), sparsity=s), case("fp16", device="cpu")
        )
        for s in (0.0, 0.5)
    )
    assert {tile.rows for tile in dense.tiles.values()} == {32, 64, 128, 256}
    assert {tile.depth for tile in dense.tiles.values()} == {64}
    assert {tile.rows for tile in sparse.tiles.values()} == {32}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_layer_that_keeps_nothing_packs(dtype: str) -> None:
    conv = convolution(64, 64, (3, 3), (6, 6), sparsity=1.0)
    values, blocks, offsets, kept = cutlass_layer.pack(conv, (32, 32), dtype, "cpu")
    assert (len(values), len(blocks), offsets.tolist(), kept) == (0, 0, [0, 0, 0], 0)
    assert CutlassLayer(conv, case(dtype, device="cpu")).tiles


def test_only_the_chosen_packing_is_held() -> None:
    layer = CutlassLayer(convolution(64, 64, (1, 1), (8, 8), sparsity=0.0), case(device="cpu"))
    chosen = next(name for name, tile in layer.tiles.items() if tile.rows == 64)
    for tile in layer.tiles.values():
        layer._packed(tile)
    layer.settle(chosen)
    assert set(layer._weights) == {64}
    assert layer.bytes <= 1.2 * 64 * 64 * 4


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (convolution(64, 64, (3, 3), (8, 8), groups=2), "2 groups"),
        (convolution(3, 64, (3, 3), (8, 8)), "this layer has 3"),
        (convolution(64, 64, (1, 1), (18, 18), stride=9), "strides to 8"),
        (convolution(64, 64, (1, 1), (8, 8), block=(24, 32)), "no blocks of 24x32"),
        (convolution(64, 64, (1, 1), (8, 8), block=(4, 4)), "no blocks of 4x4"),
    ],
)
def test_why_not_names_the_limit(layer, reason: str) -> None:
    assert reason in cutlass_layer.why_not(layer, case())
    assert cutlass_layer.why_not(convolution(64, 64, (3, 3), (8, 8)), case()) is None

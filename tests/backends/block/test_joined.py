"""Blocks that are kept together join; a larger block never keeps what a smaller one left out."""

from __future__ import annotations

import pytest
import torch

from csbench.backends.block import joined
from csbench.sparse.formats import BlockPacked


def weight(kept: list[list[int]], block: tuple[int, int] = (4, 8), taps: int = 1) -> torch.Tensor:
    """Blocks of ones by (block row, tap * block column)."""
    rows, columns = block
    grid = torch.tensor(kept, dtype=torch.float32).unflatten(1, (taps, -1))
    w = grid.repeat_interleave(rows, 0).repeat_interleave(columns, 2)
    return w.permute(0, 2, 1)[..., None]


@pytest.mark.parametrize(
    ("kept", "taps", "largest"),
    [
        ([[1, 1], [1, 1]], 1, (8, 16)),  # dense
        ([[1, 0], [1, 0]], 1, (8, 8)),  # rows alike
        ([[1, 1], [0, 0]], 1, (4, 16)),  # columns alike
        ([[1, 0], [0, 1]], 1, (4, 8)),
        ([[1, 1], [1, 1], [1, 1]], 1, (4, 16)),  # an odd number of rows
        ([[0, 1, 1, 0]], 2, (4, 8)),  # neighbours of different taps
        ([[1, 1, 0, 0]], 2, (4, 16)),
        ([[1], [1], [0], [0], [0], [0], [1], [1]], 1, (8, 8)),
    ],
)
def test_largest(kept: list[list[int]], taps: int, largest: tuple[int, int]) -> None:
    w = weight(kept, taps=taps)
    assert joined.largest(w, (4, 8), (64, 64)) == largest
    before, after = (BlockPacked.pack(w, block) for block in ((4, 8), largest))
    assert before.value_bytes() == after.value_bytes()


def test_the_limit_holds() -> None:
    assert joined.largest(torch.ones(64, 64, 3, 3), (4, 8), (16, 32)) == (16, 32)
    assert joined.largest(torch.ones(64, 64, 3, 3), (4, 8), (15, 31)) == (8, 16)

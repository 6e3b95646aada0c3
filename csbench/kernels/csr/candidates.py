"""Which variants of a layer are worth timing: docs/kernels/csr.md has the arithmetic."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from csbench.kernels.csr import direct
from csbench.kernels.csr.columns import WIDTHS, Weight
from csbench.kernels.csr.direct import Cut, Direct
from csbench.kernels.csr.launch import Variant, multiprocessors
from csbench.kernels.csr.space import Shape, Space
from csbench.kernels.csr.staged import Staged, Tile

# Clocks that a column takes in staged.cu for each row of its group and 8 words (measured).
CLOCKS = {1: 9.5, 2: 5.3, 4: 4.05}
WORTH_TIMING = 1.5  # times the least clocks
MOST_ZEROS = 0.88  # of a layer's zeros may be multiplied: with nearly all of them it would be dense

# Warps of a block, rows of a warp, and how many words a lane may hold of each (in fp32).
TILES = ((16, 8, range(4, 9)), (8, 8, range(4, 9)), (8, 8, (4,)), (8, 4, range(10, 17, 2)))
COLUMN = 2  # words that could be multiplied in the time that a column takes besides
ALONE = 0.3  # of its time that a block takes more where it is alone on a multiprocessor

LEAST = 8  # columns in a part of a list
MOST_SPLITS = 16
MANY = 24  # times as many warps as fill the device: staged.cu is for those


def variants(weight: Weight, shape: Shape, dtype: torch.dtype) -> Iterator[Variant]:
    """At least one, wherever why_not() has no objection."""
    space, sums = Space.of(shape), 1 if dtype == torch.float32 else 2
    widths = _widths(weight, shape.rows)
    least = min(CLOCKS[v] * v * weight.columns(v) for v in widths)
    none = True
    for v in widths:
        found: list[Variant] = list(cuts(weight, shape, v))
        if CLOCKS[v] * v * weight.columns(v) <= WORTH_TIMING * least:
            found += tiles(weight, space, v, sums)
        none = none and not found
        yield from found
    if none:
        yield smallest(weight, space)


def why_not(shape: Shape, weight: Weight) -> str | None:
    """The reason why neither kernel takes a layer; None when one does."""
    reason = direct.why_not(shape)
    return reason if reason and not smallest(weight, Space.of(shape)).fits else None


def smallest(weight: Weight, space: Space) -> Staged:
    """The tile that fits where any does."""
    return Staged(weight, space, Tile(1, 1, 1, 4))


def tiles(weight: Weight, space: Space, v: int, sums: int) -> Iterator[Staged]:
    """On staged.cu; a sum takes `sums` registers (1 in fp32, 2 of halves).

    Of tiles that differ in width alone the one that leaves multiprocessors idle for least is taken.
    """
    for warps, rows, widths in TILES:
        shapes = {Tile(v, max(1, rows // v), width // sums, warps) for width in widths}
        widest_first = sorted(shapes, reverse=True)
        fitting = [s for tile in widest_first if (s := Staged(weight, space, tile)).fits]
        if not fitting:
            continue
        best = min(fitting, key=_clocks)
        too_tall = best.tile.rows >= 2 * space.shape.rows
        if not too_tall and best.grid >= multiprocessors() // 2:
            yield best


def cuts(weight: Weight, shape: Shape, v: int) -> Iterator[Direct]:
    """On direct.cu: enough parts to fill the device, but not too short, and half as many."""
    if direct.why_not(shape) is not None:
        return
    groups = len(weight.groups(v)[0])
    longest = weight.columns(v) // groups // LEAST
    full = 16 * multiprocessors()
    for words in (1, 2, 4):
        warps = groups * -(-shape.pixels // (32 * words))
        if warps > MANY * full:
            continue
        splits = 1
        while splits < MOST_SPLITS and warps * splits < full and 2 * splits <= longest:
            splits *= 2
        yield Direct(weight, shape, Cut(v, words, splits))
        if splits > 1:
            yield Direct(weight, shape, Cut(v, words, splits // 2))


def _widths(weight: Weight, rows: int) -> list[int]:
    """Rows of a group that leave enough zeros out."""
    dropped = max(weight.values.numel() - weight.kept, 1)
    return [
        v
        for v in WIDTHS
        if v == 1 or (v <= rows and v * weight.columns(v) - weight.kept <= MOST_ZEROS * dropped)
    ]


def _clocks(staged: Staged) -> float:
    """Of the busiest multiprocessor, in words that a warp multiplies by a column."""
    rounds = -(-staged.grid // multiprocessors())
    alone = ALONE if rounds % staged.tile.per_multiprocessor else 0
    return (rounds + alone) * (staged.tile.words + COLUMN)

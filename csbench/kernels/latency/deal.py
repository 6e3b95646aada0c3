"""Kept columns of vectors dealt to records of 16: lanes that read together meet no bank twice.

Four lanes read a pixel's columns at once, one each, from 16 bytes of neighbouring channels that the
swizzle has moved together: two of a bank are two channels whose words stand alike in 16 bytes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from csbench.kernels.gather.deal import turns

COLUMNS = 16  # of a record
LANES, _OF_LANE = 4, 4  # that read a pixel's columns together, and how many each reads


def deal(cell: Tensor, bank: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """Record and position of each column: one of `bank` goes to a place of that lane while there
    are any in its cell (unit and chunk), whose records begin at first[cell]."""
    records = first.diff()
    turn, _ = turns(cell * LANES + bank, len(records) * LANES)
    fitting = turn < records[cell] * _OF_LANE
    record = first[cell] + turn // _OF_LANE
    position = _position(bank, turn % _OF_LANE)
    taken = torch.zeros(int(first[-1]), COLUMNS, dtype=torch.bool)
    taken[record[fitting], position[fitting]] = True
    free = (~taken).nonzero()  # in the order of records, so of cells
    in_cell = COLUMNS * records - torch.bincount(cell[fitting], minlength=len(records))
    left = ~fitting
    begin = in_cell.cumsum(0) - in_cell
    chosen = free[begin[cell[left]] + turns(cell[left], len(records))[0]]
    record[left], position[left] = chosen[:, 0], chosen[:, 1]
    return record, position


def _position(lane: Tensor, index: Tensor) -> Tensor:
    """Where in a k-step of m16n8k16 the `index`-th column that a lane reads stands."""
    return 8 * (index // 2) + 2 * lane + index % 2

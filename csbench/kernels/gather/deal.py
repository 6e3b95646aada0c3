"""Kept columns dealt to k-steps of 16: which record each goes to, and its place there.

Of a unit's columns of one stage all but the last record are full; the last one is filled up with
columns of the next stage, so that padding is left at the end of K only.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

STEP = 16  # kept columns of one k-step
OCTET = 8  # rows that ldmatrix reads at once


class Dealt(NamedTuple):
    """Of every kept column, in `order`, its record and place, and whether it was `moved` ahead.

    `first` [units * stages + 1] numbers the first record of each unit and stage.
    """

    order: Tensor
    record: Tensor
    place: Tensor
    moved: Tensor
    first: Tensor


def deal(unit: Tensor, stage: Tensor, row: Tensor, shape: tuple[int, int], spans: bool) -> Dealt:
    """Deal columns by their unit, stage and row in the stage; `shape` counts units and stages.

    Without `spans` no record holds columns of two stages.
    """
    units, stages = shape
    cell = unit * stages + stage
    count = torch.bincount(cell, minlength=units * stages)
    steps, taken = _steps(count.reshape(shape), spans)
    steps, taken = steps.reshape(-1), taken.reshape(-1)
    first = pad(steps.cumsum(0), (1, 0))
    # Sorted by bank (the row modulo 8), so that what is spread evenly has different banks.
    order = ((cell * OCTET + row % OCTET) * (row.max() + 1) + row).argsort()
    cell = cell[order]
    turn = torch.arange(len(cell)) - pad(count.cumsum(0), (1, 0))[cell]
    moved, turn = _spread(turn, taken[cell], count[cell])
    own = count - taken
    rest = own - STEP * (steps - 1)  # own columns of a cell's last record
    late, _ = _spread(turn, rest[cell], own[cell])
    late |= moved
    home = cell - moved.long()
    record, place = _in_octets(home, late, row[order], steps)
    return Dealt(order, first[home] + record, place, moved, first)


def most_steps(unit: Tensor, stage: Tensor, shape: tuple[int, int], spans: bool) -> int:
    """The most records of a unit in a stage."""
    units, stages = shape
    count = torch.bincount(unit * stages + stage, minlength=units * stages)
    return int(_steps(count.reshape(shape), spans)[0].max())


def _steps(count: Tensor, spans: bool) -> tuple[Tensor, Tensor]:
    """Records of every unit and stage, at least one, and columns that the stage before takes."""
    steps, taken = torch.empty_like(count), torch.zeros_like(count)
    for stage in range(count.shape[1]):
        own = count[:, stage] - taken[:, stage]
        steps[:, stage] = (-(-own // STEP)).clamp_min(1)
        if spans and stage + 1 < count.shape[1]:
            room = STEP * steps[:, stage] - own
            taken[:, stage + 1] = torch.minimum(room, count[:, stage + 1])
    return steps, taken


def _spread(turn: Tensor, some: Tensor, of: Tensor) -> tuple[Tensor, Tensor]:
    """Choose `some` of the turns 0, 1, ... `of` - 1, evenly; also the others' turns among them."""
    of = of.clamp_min(1)
    before = turn * some // of
    return (turn + 1) * some // of > before, turn - before


def _in_octets(home: Tensor, late: Tensor, row: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Record within the cell, and place: rows sorted by bank are dealt in turn to the octets."""
    last = steps[home] - 1
    group = 2 * home + late.long()  # a cell's full records, its last record
    order = ((group * OCTET + row % OCTET) * (row.max() + 1) + row).argsort()
    begin = pad(torch.bincount(group, minlength=2 * len(steps)).cumsum(0), (1, 0))
    turn = torch.empty_like(order)
    turn[order] = torch.arange(len(order))
    turn -= begin[group]
    octets = 2 * torch.where(late, torch.ones_like(last), last)
    octet = turn % octets
    record = torch.where(late, last, octet // 2)
    return record, octet % 2 * OCTET + turn // octets

"""Kept columns dealt to k-steps of 16: which record each goes to, and its place there.

Of a unit's columns of one stage all but the last record are full; the last one is filled up with
columns of the next stage, so that padding is left at the end of K only. The eight rows of an octet
are read at once, in as many accesses as rows of one bank (the row modulo 8) are among them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

STEP = 16  # kept columns of one k-step
OCTET = 8  # rows that ldmatrix reads at once; also banks


class Dealt(NamedTuple):
    """Of every kept column its record and place, and whether it was `moved` ahead.

    `first` [units * stages + 1] numbers the first record of each unit and stage.
    """

    record: Tensor
    place: Tensor
    moved: Tensor
    first: Tensor


def deal(unit: Tensor, stage: Tensor, row: Tensor, shape: tuple[int, int], spans: bool) -> Dealt:
    """Deal columns by their unit, stage and row in the stage; `shape` counts units and stages.

    Without `spans` no record holds columns of two stages.
    """
    units, stages = shape
    cell, bank = unit * stages + stage, row % OCTET
    turn, count = turns(cell * OCTET + bank, units * stages * OCTET)
    steps, taken, late = (v.flatten(0, 1) for v in _steps(count.reshape(*shape, OCTET), spans))
    first = pad(steps.cumsum(0), (1, 0))
    moved = turn < taken[cell, bank]
    home = cell - moved.long()
    in_last = turn < (taken + late)[cell, bank]
    record, place = _in_octets(home, in_last, bank, steps)
    return Dealt(first[home] + record, place, moved, first)


def most_steps(unit: Tensor, stage: Tensor, shape: tuple[int, int], spans: bool) -> int:
    """The most records of a unit in a stage."""
    units, stages = shape
    count = torch.bincount(unit * stages + stage, minlength=units * stages)
    by_bank = pad(count.reshape(units, stages, 1), (0, OCTET - 1))  # any: records are as many
    return int(_steps(by_bank, spans)[0].max())


def _steps(count: Tensor, spans: bool) -> tuple[Tensor, Tensor, Tensor]:
    """From the columns of every unit, stage and bank: records of unit and stage, at least one; by
    bank the columns that the stage before takes, and its own columns in its last record."""
    stages = count.shape[1]
    taken, late = torch.zeros_like(count), torch.zeros_like(count)
    steps = count.new_ones(count.shape[:2])
    for stage in range(stages):
        own = count[:, stage] - taken[:, stage]
        total = own.sum(1)
        steps[:, stage] = (-(-total // STEP)).clamp_min(1)
        late[:, stage] = _picked(own, total - STEP * (steps[:, stage] - 1), torch.zeros_like(own))
        if spans and stage + 1 < stages:
            room = STEP * steps[:, stage] - total
            taken[:, stage + 1] = _picked(count[:, stage + 1], room, late[:, stage])
    return steps, taken, late


def _picked(count: Tensor, some: Tensor, there: Tensor) -> Tensor:
    """How many to pick of each bank, `some` in all: of those with most, at most two with those
    that are `there`, so that both octets of a record may have every bank once."""
    nth = torch.arange(STEP)
    value = count[..., None] - nth - 1000 * (there[..., None] + nth >= STEP // OCTET)
    value = torch.where(nth < count[..., None], value, -(10**6)).flatten(1)
    order = value.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(STEP * OCTET).expand_as(order))
    chosen = (rank < some[:, None]) & (value > -(10**6))
    return chosen.reshape(-1, OCTET, STEP).sum(2)


def _in_octets(home: Tensor, late: Tensor, bank: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Record within the cell, and place: rows are dealt to the octets by bank."""
    last = steps[home] - 1
    group = 2 * home + late.long()  # a cell's full records, its last record
    octets = torch.stack([2 * (steps - 1), torch.full_like(steps, 2)], 1).reshape(-1)
    octet = _by_bank(group, bank, octets)
    record = torch.where(late, last, octet // 2)
    most = int(octets.max())
    turn, _ = turns(group * most + octet, len(octets) * most)
    return record, octet % 2 * OCTET + turn


def _by_bank(group: Tensor, bank: Tensor, octets: Tensor) -> Tensor:
    """The octet of each row within its group: as few as possible hold two rows of a bank.

    A bank has a row in every octet but for its gaps, where it has too few, and its extras, where it
    has too many. Gaps and extras of all banks are dealt in turn to the same few octets.
    """
    turn, count = turns(group * OCTET + bank, len(octets) * OCTET)
    wanted = octets[:, None].expand(-1, OCTET)
    count = count.reshape(-1, OCTET)
    gaps, extras = (wanted - count).clamp_min(0), (count - wanted).clamp_min(0)
    few = torch.maximum(gaps, extras).amax(1)[:, None].minimum(wanted).clamp_min(1)
    begin = (gaps.cumsum(1) - gaps) % few  # gaps are neighbours; the first octet follows the last
    wrapped = (begin + gaps - few).clamp_min(0)
    before = begin - wrapped  # rows between a gap that goes round and its begin
    first_extra = extras.cumsum(1) - extras
    mine = (group, bank)
    regular = turn + torch.where(turn < before[mine], wrapped[mine], gaps[mine])
    extra = (first_extra[mine] + turn - wanted[mine]) % few[mine]
    return torch.where(turn < wanted[mine], regular, extra)


def turns(cell: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """Of each entry its number among those of its cell; how many each cell has."""
    count = torch.bincount(cell, minlength=cells)
    order = cell.argsort(stable=True)
    turn = torch.empty_like(cell)
    turn[order] = torch.arange(len(cell)) - (count.cumsum(0) - count)[cell[order]]
    return turn, count

"""Weights in vectors for latency/vectors.cuh: units of 32 output channels, kept columns in records.

A record is 16 kept columns of a unit: their weights as fragments, and where each column's number
of a tile's first pixel lies in the input tile that a plan has in shared memory. Columns of every
unit and chunk of K are dealt to records by bank, so that a tensor core's lanes read theirs at once.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from csbench.kernels.gather.pack import Units, by_row, scaled
from csbench.kernels.latency.deal import COLUMNS, LANES, deal
from csbench.kernels.latency.pack import STEP, Order, as_planes, padded
from csbench.kernels.latency.plan import Plan, Shape, plane_bytes

UNIT = 32  # output channels: the rows of a warp
_MOST_UNITS = 4  # of a block: beyond the last one, so many are readable
_TOGETHER = 64  # channels of a pixel that lie together in shared memory


@dataclass(frozen=True, eq=False)
class Held:
    """What the kernel reads under one plan: uint8 records, and int32 [units, chunks + 1] starts."""

    weights: Tensor
    starts: Tensor
    room: int  # bytes of the most records of a unit in a chunk


_Form = tuple[int, tuple[int, int]]


class _Dealt(NamedTuple):
    """Of every kept column its record and position; what all plans with chunks of a size share."""

    record: Tensor
    position: Tensor
    weights: Tensor
    starts: Tensor


@dataclass(frozen=True, eq=False)
class Vectors:
    """One layer's weights, packed for a plan when it is asked for; see pack_vectors.

    Scales and biases are on the device, by row of the units, and so is `places`: where rows belong
    in the order of the output.
    """

    order: Order  # of the input
    units: Units
    parts: Tensor  # halves [planes, kept, rows of a unit], on the CPU
    scale: Tensor
    bias: Tensor
    places: Tensor
    _held: dict[_Form, Held] = field(default_factory=dict)
    _dealt: dict[int, _Dealt] = field(default_factory=dict)  # by the size of chunks

    @cached_property
    def place(self) -> Tensor:
        """Of each kept column where its channel stands in the input's order, int64."""
        return _place(self.units, self.order)

    @cached_property
    def rows_together(self) -> bool:
        """Whether the rows of every unit are neighbours in the output, which are stored at once."""
        rows = self.units.rows
        return bool((rows.amax(1) - rows.amin(1) == UNIT - 1).all())

    def most(self, chunk_log: int) -> int:
        """Bytes of the most records of a unit in a chunk of 2 ** chunk_log steps."""
        return most(self.units, self.order, len(self.parts), chunk_log)

    def held(self, plan: Plan, shape: Shape) -> Held:
        """Records for this plan; made once for all that cut K and the image alike."""
        form = _form(plan)
        if form not in self._held:
            self._held[form] = self._packed(plan, shape)
        return self._held[form]

    def keep(self, plans: Collection[Plan]) -> None:
        """Let go of what others hold on the device, and of what was for packing only."""
        for other in self._held.keys() - set(map(_form, plans)):
            del self._held[other]
        self._dealt.clear()

    def _deal(self, chunk_log: int) -> _Dealt:
        if chunk_log not in self._dealt:
            cell, counts = _cells(self.units, self.order, chunk_log)
            chunks, first = len(counts) // self.units.count, pad(counts.cumsum(0), (1, 0))
            record, position = deal(cell, self.place // 2 % LANES, first)
            total = int(first[-1])
            weights = self.parts.new_zeros(len(self.parts), total, COLUMNS, UNIT)
            weights[:, record, position] = self.parts
            starts = torch.cat([first[:-1].reshape(-1, chunks), first[chunks::chunks, None]], 1)
            beyond = starts.new_full((-len(starts) % _MOST_UNITS, chunks + 1), total)
            move = partial(Tensor.to, device=self.scale.device)
            self._dealt[chunk_log] = _Dealt(
                record, position, move(_fragments(weights)), move(torch.cat([starts, beyond]).int())
            )
        return self._dealt[chunk_log]

    def _packed(self, plan: Plan, shape: Shape) -> Held:
        dealt = self._deal(plan.chunk_log)
        offsets = torch.full((len(dealt.weights), COLUMNS), -1)
        offsets[dealt.record, dealt.position] = self._offsets(plan, shape)
        # Padding repeats a kept column: none is read that only zeros would meet.
        offsets = torch.where(offsets < 0, offsets.amax(1, keepdim=True), offsets)
        records = torch.cat([dealt.weights, _by_lane(offsets).to(self.scale.device)], 1)
        return Held(records, dealt.starts, self.most(plan.chunk_log))

    def _offsets(self, plan: Plan, shape: Shape) -> Tensor:
        """Bytes from a pixel's place in the input tile to each column's number."""
        tap = self.units.columns // self.units.cin
        row = tap // shape.taps[1] * shape.dilation[0]
        column = tap % shape.taps[1] * shape.dilation[1]
        plane = plane_bytes(plan.box, plan.chunk_log)
        inside = self.place % (STEP << plan.chunk_log)
        return (
            (row * plan.box[1] + column) * 2 * _TOGETHER
            + inside // _TOGETHER * len(self.parts) * plane
            + inside % _TOGETHER * 2
        )


def pack_vectors(
    units: Units, bias: Tensor, split: bool, device: str, *, x_scale: float = 1.0,
    order: Order | None = None, out_order: Order | None = None,
) -> Vectors:  # fmt: skip
    """Units of 32 rows, for an input and an output in these orders (default: as they come).

    Rows are multiplied by powers of two, so that what a half rounds away is no subnormal half;
    `x_scale` is what the input's halves were multiplied by.
    """
    order, out = order or Order(units.cin, 1), out_order or Order(len(bias), 1)
    units, unscale = scaled(_near_rows_together(units))
    row = units.rows.reshape(-1).long()
    places = torch.where(row >= 0, out.place[row.clamp_min(0)], -1)
    if out_order is not None:  # rows of no channel write the zeros of its padding
        empty, unused = (out.channel < 0).nonzero()[:, 0], (row < 0).nonzero()[:, 0]
        if len(empty) > len(unused):
            raise ValueError(f"{len(row)} rows do not fill {out.stored} stored channels")
        places[unused[: len(empty)]] = empty
    scale, biases = (padded(t).to(device) for t in (unscale / x_scale, by_row(bias, units)))
    rows = pad(places, (0, len(scale) - len(places)), value=-1).int().to(device)
    return Vectors(order, units, as_planes(units.values, split), scale, biases, rows)


def fits(units: Units, rows: int) -> bool:
    """Whether the kernel takes these units for an output of so many stored channels."""
    return units.size == UNIT and units.count == -(-rows // UNIT)


def most(units: Units, order: Order, planes: int, chunk_log: int) -> int:
    """Bytes of the most records of a unit in a chunk of 2 ** chunk_log steps."""
    _, counts = _cells(units, order, chunk_log)
    return int(counts.max()) * COLUMNS * (UNIT * 2 * planes + 4)


def _place(units: Units, order: Order) -> Tensor:
    return order.place[units.columns % units.cin]


def _cells(units: Units, order: Order, chunk_log: int) -> tuple[Tensor, Tensor]:
    """Of each kept column its unit and chunk as one number; records of each such pair."""
    chunks = -(-order.stored // STEP >> chunk_log)
    cell = units.unit * chunks + (_place(units, order) // STEP >> chunk_log)
    return cell, -(-torch.bincount(cell, minlength=units.count * chunks) // COLUMNS)


def _form(plan: Plan) -> _Form:
    """What records depend on: how K is cut, and the input tile."""
    return plan.chunk_log, plan.box


def _near_rows_together(units: Units) -> Units:
    """The rows of each unit in another order: eight lanes store neighbours of the channels kept.

    A thread finishes four rows, 4 q to 4 q + 3, one after the other, and eight neighbouring ones
    do so at once. So row 4 q + i is the (8 i + q)-th by channel.
    """
    by_channel = units.rows.argsort(dim=1, stable=True)
    place = torch.arange(UNIT)
    taken = by_channel[:, place % 4 * 8 + place // 4]
    return Units(
        units.cin, units.taps, units.rows.gather(1, taken), units.unit, units.columns,
        units.values.gather(1, taken[units.unit]),
    )  # fmt: skip


def _fragments(weights: Tensor) -> Tensor:
    """[planes, records, 16 columns, 32 rows] as bytes: two m16k16 fragments, planes in turn."""
    planes, total, _, _ = weights.shape
    # [plane, record, k half, lane's pair, 2, m16, row half, row]
    words = weights.reshape(planes, total, 2, 4, 2, 2, 2, 8).permute(1, 5, 0, 7, 3, 2, 6, 4)
    return words.contiguous().view(torch.uint8).reshape(total, -1)


def _by_lane(offsets: Tensor) -> Tensor:
    """[records, 16] as bytes in the order in which lanes read them: four a lane."""
    ordered = offsets.reshape(-1, 2, 4, 2).transpose(1, 2).int().contiguous()
    return ordered.reshape(len(offsets), -1).view(torch.uint8)

"""Weights of the gather kernels: units of output channels, their kept columns as records of 16.

A *unit* is 8, 16 or 32 output channels that keep the same columns (tap * Cin + channel). A *box*
is 64 input channels at one tap, a *stage* a few boxes that lie in shared memory together, or 16
channels at every pixel of a window. Of every unit and stage the kept columns are dealt to k-steps
of 16; a record is the weights of one k-step in the order of mma's fragments and where the 16
channels lie in the stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from csbench.kernels.gather import order
from csbench.kernels.gather.deal import STEP, deal
from csbench.kernels.gather.layout import EIGHT, WIDE

UNITS = (32, 16, 8)  # output channels of a unit
WINDOW_CHANNELS = 16  # of a stage that is a window of pixels
_BOX_BYTES = WIDE * WIDE * 2
# Marks of an address, which is a multiple of 16 below 2^15.
STAGE_ENDS = 1 << 15  # of all in a stage's last record
NEXT_STAGE = 1  # the row lies in the stage after: in a stage's last record only
EMPTY = 2  # instead of addresses: the record holds no weights
_TOP = 14  # weights of a row are scaled to just below 2 ** 14, so their low halves keep all bits


@dataclass(frozen=True, eq=False)
class Units:
    """Output channels that share columns: unit u computes `rows[u]` from its `columns`.

    `values[i]` are the weights of kept column i for all rows of its unit; -1 in `rows` is padding.
    """

    cin: int
    taps: int
    rows: Tensor  # int32 [units, rows of a unit]
    unit: Tensor  # int64 [kept]: whose column it is, ascending
    columns: Tensor  # int64 [kept]
    values: Tensor  # float32 [kept, rows of a unit]

    @property
    def size(self) -> int:
        """Output channels of a unit."""
        return self.rows.shape[1]

    @property
    def count(self) -> int:
        return len(self.rows)

    @property
    def density(self) -> float:
        """Kept columns as a share of all."""
        return len(self.columns) / (self.count * self.cin * self.taps)

    def boxes(self) -> tuple[Tensor, Tensor]:
        """Numbers (tap * boxes of a tap + box) of the boxes in use, and of each column which."""
        per_tap = -(-self.cin // WIDE)
        tap, channel = self.columns // self.cin, self.columns % self.cin
        used, which = torch.unique(tap * per_tap + channel // WIDE, return_inverse=True)
        return used, which


def by_row(values: Tensor, units: Units) -> Tensor:
    """One number an output channel as one a row of the units, zero where rows are padding."""
    rows = units.rows.reshape(-1).long()
    return torch.where(rows >= 0, values.float()[rows.clamp_min(0)], 0.0)


def scaled(units: Units) -> tuple[Units, Tensor]:
    """Rows times powers of two, the largest magnitude just below 2^14; and what undoes it.

    The second is float32 [units * rows of a unit].
    """
    peak = units.values.new_zeros(units.rows.shape)
    where = units.unit[:, None].expand(units.values.shape)
    peak.scatter_reduce_(0, where, units.values.abs(), "amax")
    scale = torch.exp2(torch.floor(_TOP - torch.log2(peak.clamp_min(1e-30))))
    scale = torch.where(peak > 0, scale, torch.ones_like(scale))
    values = units.values * scale[units.unit]
    return Units(
        units.cin, units.taps, units.rows, units.unit, units.columns, values
    ), (1 / scale).reshape(-1)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Packed:
    """What the kernel reads for stages of so many boxes.

    `starts[u, s]` is the first record of unit u in stage s; every stage has at least one.
    `boxes` names them by tap (or pixel of a window) and first channel, in the order in which stages
    hold them.
    """

    records: Tensor  # uint8 [records, bytes]
    starts: Tensor  # int32 [units, stages + 1]
    boxes: Tensor  # int32 [boxes, 2]
    boxes_of_stage: int

    @property
    def stages(self) -> int:
        return self.starts.shape[1] - 1

    @property
    def bytes(self) -> int:
        """Bytes of weights and of where they belong, padding included."""
        return self.records.numel() + 4 * (self.starts.numel() + self.boxes.numel())


class Stages(NamedTuple):
    """Where the kept columns lie: of each its stage and its row there; see Packed for `boxes`."""

    stage: Tensor
    row: Tensor
    boxes: Tensor
    boxes_of_stage: int

    @property
    def number(self) -> int:
        return -(-len(self.boxes) // self.boxes_of_stage)


def by_tap(units: Units, boxes_of_stage: int) -> Stages:
    """Stages of boxes of 64 channels at one tap."""
    per_tap, channel = -(-units.cin // WIDE), units.columns % units.cin
    used, box = units.boxes()
    row = box % boxes_of_stage * WIDE + channel % WIDE
    boxes = torch.stack([used // per_tap, used % per_tap * WIDE], 1)
    return Stages(box // boxes_of_stage, row, boxes, boxes_of_stage)


def by_window(units: Units, window: tuple[int, int]) -> Stages:
    """Stages of 16 channels at all pixels of a window (height, width), which 2 x 2 output pixels
    share; rows are those of the first one."""
    (height, width), step = window, WINDOW_CHANNELS
    tap, channel = units.columns // units.cin, units.columns % units.cin
    across = width - 1  # taps
    row = (tap // across * width + tap % across) * step + channel % step
    slab, pixel = torch.meshgrid(
        torch.arange(-(-units.cin // step)), torch.arange(height * width), indexing="ij"
    )
    boxes = torch.stack([pixel.flatten(), slab.flatten() * step], 1)
    return Stages(channel // step, row, boxes, height * width)


def pack(
    units: Units, stages: Stages, *, swizzled: bool, parts: tuple[Tensor, ...], spans: bool = True,
    together: bool = False,
) -> Packed:  # fmt: skip
    """Records of units whose `values` were made 16-bit: `parts` are one plane or high and low.

    `spans`: a record may hold columns of two stages, which a warp then takes one after the other.
    `together`: weights are in the order of wgmma, else in that of mma's fragments.
    """
    ordered = order.core_matrices if together else order.fragments
    count = stages.number
    dealt = deal(units.unit, stages.stage, stages.row, (units.count, count), spans)
    first, total = dealt.first, int(dealt.first[-1])
    places = _address(stages.row, swizzled) | dealt.moved * NEXT_STAGE
    addresses = _addresses(dealt.record, dealt.place, places, total)
    addresses[first[1:] - 1] |= STAGE_ENDS
    pieces = []
    for part in parts:
        weights = part.new_zeros(total, STEP, part.shape[1])
        weights[dealt.record, dealt.place] = part
        pieces.append(ordered(weights))
    pieces.append(addresses.to(torch.int16).view(torch.uint8))
    starts = torch.cat([first[:-1].reshape(units.count, count), first[count::count, None]], 1)
    return Packed(torch.cat(pieces, 1), starts.int(), stages.boxes.int(), stages.boxes_of_stage)


def _addresses(record: Tensor, place: Tensor, address: Tensor, total: int) -> Tensor:
    """The addresses of a record's 16 columns [records, 16].

    Padding repeats a channel that is kept, so none is read that only zero weights would meet; the
    same row twice in a group of eight is no bank conflict.
    """
    found = torch.full((total, STEP), -1)
    found[record, place] = address
    octets = found.reshape(-1, 2, EIGHT)
    repeated = octets.amax(2, keepdim=True)
    repeated = torch.where(repeated >= 0, repeated, repeated.amax(1, keepdim=True))
    found = torch.where(octets >= 0, octets, repeated).reshape(-1, STEP)
    return torch.where(found >= 0, found, EMPTY)


def _address(row: Tensor, swizzled: bool) -> Tensor:
    """Byte offset of a row in its stage, as ldmatrix of an m16 tile's first columns takes it."""
    if swizzled:  # rows of 128 bytes, whose 16-byte pieces are exchanged by the row's number
        return row * 128 | (row % EIGHT) << 4
    return row // WIDE * _BOX_BYTES + row % WIDE * 16

"""Weights of the latency kernels, and the order of channels that they are made for."""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import pad

from csbench.kernels.two_of_four import positions

ROW_PADDING = 128  # rows of the widest tile: scale and bias are readable that far
STEP = 32  # channels of one step along K
VECTORS = 0  # in place of m: 32 rows keep the same columns, any (vectors.py)
_PEAK = 256.0  # rows are scaled so that their largest weight lies in [256, 512)


@dataclass(frozen=True)
class Order:
    """Where the channels of a tensor stand when one of every `m` is kept (m = 1: dense).

    The m candidates of a group lie span / m channels apart, and groups repeat every `span`
    channels: span = m is N:M's grouping of neighbours, 0 stands for all channels. Groups come in
    sets; a set is `run` steps of 32 channels. A step holds, for each of 8 groups (16 when m = 2),
    neighbouring candidates as (even, odd) pairs. With fewer than 8 groups (a power of two) a step
    holds more candidates of each instead. Places that no channel takes are padding.
    """

    channels: int
    m: int
    span: int = 0

    @property
    def groups(self) -> int:
        return self.channels // self.m

    @property
    def places(self) -> int:
        """Groups of one set that a step tells apart."""
        if self.m <= 2:
            return 16 if self.m == 2 else STEP
        few = self.groups in (1, 2, 4) and self.m // 2 >= 2 * (8 // self.groups)
        return self.groups if few else 8

    @property
    def run(self) -> int:
        """Steps of one set, a power of two."""
        if self.m <= 2:
            return 1
        pairs = -(-self.m // 2) * self.places
        return max(1, 1 << (-(-pairs // 16) - 1).bit_length())

    @property
    def sets(self) -> int:
        return -(-self.groups // self.places)

    @property
    def stored(self) -> int:
        """Channels with padding."""
        return self.sets * self.run * STEP

    def sets_for(self, m: int) -> tuple[int, int]:
        """(sets, steps of one) for a layer that keeps one of every `m`; others take each step."""
        return (self.stored // STEP, 1) if m in (1, VECTORS) else (self.sets, self.run)

    @functools.cached_property
    def channel(self) -> Tensor:
        """For each place the channel that stands there, -1 for padding (int64)."""
        index = torch.arange(self.channels)
        if self.m == 1:
            place = index
        else:
            span = self.span or self.channels
            apart = span // self.m
            candidate = index % span // apart
            group = index // span * apart + index % apart
            inner = group % self.places * 2 + candidate % 2
            pair = candidate // 2 * self.places * 2
            place = group // self.places * self.run * STEP + pair + inner
        out = torch.full((self.stored,), -1)
        out[place] = index
        return out

    @functools.cached_property
    def place(self) -> Tensor:
        """For each channel the place where it stands (int64)."""
        there = (self.channel >= 0).nonzero()[:, 0]
        return torch.empty_like(there).index_copy_(0, self.channel[there], there)


@dataclass(frozen=True, eq=False)
class Packed:
    """One layer's weights: a record for every (set, tap) unit and 16 rows, uint8, on the CPU.

    Scales and biases are on the device, and there go the records, in blocks that a tile asks for.
    """

    order: Order
    records: Tensor  # [units, m16, bytes of a record]
    scale: Tensor
    bias: Tensor
    _blocked: dict[int, Tensor] = field(default_factory=dict)

    def blocked(self, rows: int) -> Tensor:
        """The records by blocks of `rows`, as a block of threads fetches them; made once."""
        if rows not in self._blocked:
            units, m16, size = self.records.shape
            blocks = -(-m16 * 16 // rows)
            # Rows that nobody stores repeat others: metadata of zeros would be out of order.
            filled = self.records[:, torch.arange(blocks * rows // 16).clamp_max(m16 - 1)]
            by_block = filled.view(units, blocks, rows // 16, size).transpose(0, 1).contiguous()
            self._blocked[rows] = by_block.to(self.scale.device)
        return self._blocked[rows]

    def keep(self, rows: Collection[int]) -> None:
        """Let go of blocks of any other size."""
        for other in self._blocked.keys() - rows:
            del self._blocked[other]


def pack_weights(
    weight: Tensor, bias: Tensor, m: int, split: bool, device: str, *, x_scale: float = 1.0,
    order: Order | None = None, out_order: Order | None = None,
) -> Packed:  # fmt: skip
    """Pack float32 OIHW weights that keep at most one of each group (m = 1: all of them).

    With m = 2 any two of four neighbours in `order` may be kept. `order` is that of the input
    (default: the one of cs:`m`; a dense layer takes any), `out_order` that of the output (default:
    as they come). Rows are divided by a power of two, so that what a half rounds away is no
    subnormal half; `x_scale` is what the input's halves were multiplied by.
    """
    order = order or Order(weight.shape[1], m)
    weight, scale, bias = normalised(weight, bias, out_order)
    m16 = -(-len(weight) // 16)
    scaled = pad(weight, (0, 0) * 3 + (0, m16 * 16 - len(weight)))
    rows = _take(scaled.flatten(2).permute(1, 0, 2), order.channel)  # [places, rows, taps]
    rows = rows.permute(1, 2, 0).reshape(m16, 2, 8, rows.shape[2], order.sets, -1)
    if m <= 2:
        records = _dense(rows, split) if m == 1 else _two_of_four(rows, split)
    else:
        records = _one_of_many(rows, order.places, split)
    scale, bias = (padded(t.float()).to(device) for t in (scale / x_scale, bias))
    return Packed(order, records, scale, bias)


def normalised(
    weight: Tensor, bias: Tensor, out_order: Order | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows in the order of the output, divided by a power of two each; that, and the biases."""
    if out_order is not None:
        weight, bias = _take(weight, out_order.channel), _take(bias, out_order.channel)
    peak = weight.abs().flatten(1).amax(1)
    exponent = torch.where(peak > 0, torch.floor(torch.log2(peak)), torch.zeros_like(peak))
    scale = torch.exp2(exponent) / _PEAK
    return weight / scale.view(-1, 1, 1, 1), scale, bias


def _take(values: Tensor, index: Tensor) -> Tensor:
    """Slices by index along the first dimension, zeros where it is -1."""
    taken = values[index.clamp_min(0)]
    taken[index < 0] = 0
    return taken


def _dense(rows: Tensor, split: bool) -> Tensor:
    """[m16, 2, 8, taps, sets, places] -> records: fragments of two m16n8k16 for every step."""
    m16, _, _, taps, sets, places = rows.shape
    steps = sets * places // STEP
    # [m16, row half, row, taps, steps, k16, k half, column pair, 2]
    words = rows.reshape(m16, 2, 8, taps, steps, 2, 2, 4, 2)
    planes = as_planes(words, split)  # a leading dimension
    # [steps, taps, m16, plane, k16, (row, pair) = lane, k half, row half, 2]
    return _bytes(planes.permute(5, 4, 1, 0, 6, 3, 8, 7, 2, 9), steps * taps, m16)


def _two_of_four(rows: Tensor, split: bool) -> Tensor:
    """[m16, 2, 8, taps, sets, 32] -> records: the two kept of every four places, and metadata."""
    m16, _, _, taps, sets, _ = rows.shape
    fours = rows.reshape(m16, 2, 8, taps, sets, 2, 4, 4)
    both = positions(fours)
    planes = as_planes(fours.gather(-1, both), split)
    # [plane, m16, row half, row, taps, sets, k half, four, 2]
    values = _bytes(planes.permute(5, 4, 1, 0, 3, 7, 6, 2, 8), sets * taps, m16)
    return torch.cat([values, _metadata(both)], -1)


def _one_of_many(rows: Tensor, places: int, split: bool) -> Tensor:
    """[m16, 2, 8, taps, sets, places] -> records: kept values, their pairs, and metadata.

    `places` is how many groups a step tells apart.
    """
    m16, _, _, taps, sets, _ = rows.shape
    # The 16 places of a k-block are 8 columns of (even, odd); at most one of a column's pairs
    # in all k-blocks is kept, unless columns repeat a group: then one of all its repetitions.
    pairs = rows.reshape(m16, 2, 8, taps, sets, -1, 8, 2)
    repeats = 8 // min(8, places)
    by_group = pairs.reshape(*pairs.shape[:-2], repeats, 8 // repeats, 2)
    # candidates of a group in ascending order: (k-block, repetition, odd)
    flat = by_group.transpose(-2, -1).flatten(-4, -2).reshape(
        *pairs.shape[:-3], -1, 8 // repeats
    )  # fmt: skip
    which = flat.abs().argmax(-2)
    kept = flat.gather(-2, which.unsqueeze(-2)).squeeze(-2)
    kept, which = (t.repeat(*[1] * (t.dim() - 1), repeats) for t in (kept, which))
    columns = (*kept.shape[:-1], 4, 2)
    # [plane, m16, row half, row, taps, sets, 4, 2]
    planes = as_planes(kept.reshape(columns), split)
    values = _bytes(planes.permute(5, 4, 1, 3, 6, 0, 2, 7), sets * taps, m16)
    choice = (which // 2).to(torch.uint8).reshape(columns).permute(4, 3, 0, 2, 5, 1, 6)
    # Each four holds one of its lower and one of its upper pair.
    places_of_four = (which % 2).reshape(columns) + torch.tensor([0, 2])
    meta = _metadata(places_of_four.unsqueeze(-3))
    return torch.cat([values, _bytes(choice, sets * taps, m16), meta], -1)


def _metadata(both: Tensor) -> Tensor:
    """[m16, row half, row, taps, sets, k half, four, 2] places -> bytes of a word for each row.

    Four bits tell where the two kept of a four stand; 16 bits for row r, then for r + 8.
    """
    nibbles = both[..., 0] | both[..., 1] << 2
    halves = (nibbles << torch.tensor([0, 4, 8, 12])).sum(-1)
    words = (halves[:, 0] | halves[:, 1] << 16).permute(3, 2, 0, 4, 1)  # sets, taps, m16, half, row
    parts = torch.stack([words >> s & 255 for s in (0, 8, 16, 24)], -1).to(torch.uint8)
    return _bytes(parts, words.shape[0] * words.shape[1], words.shape[2])


def as_planes(values: Tensor, split: bool) -> Tensor:
    """Halves, and with `split` what they round away, along a new first dimension."""
    hi = values.half()
    return torch.stack([hi, (values - hi.float()).half()] if split else [hi])


def _bytes(parts: Tensor, units: int, m16: int) -> Tensor:
    return parts.contiguous().view(torch.uint8).reshape(units, m16, -1)


def padded(rows: Tensor) -> Tensor:
    """Scales or biases, readable as far as the widest tile reaches."""
    size = -(-len(rows) // ROW_PADDING) * ROW_PADDING
    return pad(rows, (0, size - len(rows))).contiguous()

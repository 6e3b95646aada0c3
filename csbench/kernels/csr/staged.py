"""staged.cu for one layer: how it is cut, packed and launched."""

from __future__ import annotations

import ctypes
import math
from ctypes import c_int
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from csbench.kernels.csr import columns
from csbench.kernels.csr.columns import Lists, Weight
from csbench.kernels.csr.launch import Call, settle, shared_memory
from csbench.kernels.csr.space import MAX_PHASES, Space

SOURCE = "csr/staged.cu"
ENOUGH = 16  # columns of a list in one chunk: with fewer, starting lists would take the time
MARGIN = 1.1  # of the longest run over the mean, as first guessed


class Tile(NamedTuple):
    """What a block multiplies: `warps` of `groups` groups of `v` rows, 32 * `words` positions."""

    v: int
    groups: int
    words: int
    warps: int

    @property
    def slots(self) -> int:
        """Groups of a block."""
        return self.warps * self.groups

    @property
    def positions(self) -> int:
        return 32 * self.words

    @property
    def rows(self) -> int:
        return self.slots * self.v

    @property
    def per_multiprocessor(self) -> int:
        """Blocks that share one, 16 warps in all."""
        return max(1, 16 // self.warps)

    @property
    def budget(self) -> int:
        """Bytes of shared memory for a block."""
        return shared_memory(self.per_multiprocessor)


class Staged:
    """A layer on one tile; packed when first run."""

    source, kernel = SOURCE, "csr_staged"

    def __init__(self, weight: Weight, space: Space, tile: Tile) -> None:
        self.weight, self.space, self.tile = weight, space, tile

    def __str__(self) -> str:
        tile = self.tile
        return f"staged {tile.rows} rows by {tile.v} x {tile.positions} in {tile.warps} warps"

    @property
    def v(self) -> int:
        return self.tile.v

    @property
    def options(self) -> tuple[str, ...]:
        v, groups, words, warps = self.tile
        return (f"-DROWS={v}", f"-DGROUPS={groups}", f"-DPIXELS={words}", f"-DWARPS={warps}",
                f"-DCOPY={self.copy}")  # fmt: skip

    @property
    def copy(self) -> int:
        """Words that one copy moves."""
        height, width = self.space.shape.size
        return 4 if self.space.is_plain and height * width % 4 == 0 else 1

    @property
    def span(self) -> int:
        """Positions of a phase that a block stages."""
        return -(-(self.tile.positions + self.space.reach) // 4) * 4

    @property
    def blocks(self) -> int:
        """Blocks of rows."""
        return -(-self.space.shape.rows // self.tile.rows)

    @property
    def grid(self) -> int:
        return self.blocks * -(-self.space.positions // self.tile.positions)

    @property
    def fits(self) -> bool:
        """Whether one channel at a time fits into shared memory."""
        phases = max(len(self.space.y.phases), len(self.space.x.phases))
        return phases <= MAX_PHASES and self._guess() > 0

    @cached_property
    def packed(self) -> Packed:
        """The lists for the largest chunk that is needed and fits."""
        groups, lengths = self.weight.groups(self.v)
        hands = self.blocks * self.tile.warps
        slots = columns.dealt(groups, lengths, hands, self.tile.groups).view(
            self.blocks, self.tile.slots, self.v
        )
        chunk = self._guess()
        while True:
            packed = self._pack(slots, chunk)
            if self._bytes(chunk, packed.longest) <= self.tile.budget or chunk == 1:
                settle(packed.starts)
                return packed
            chunk = max(1, chunk * 7 // 8)

    @property
    def bytes(self) -> int:
        return self.packed.bytes

    def call(
        self, x: Tensor, bias: Tensor, residual: Tensor | None, y: Tensor, activation: int
    ) -> Call:
        """The launch for these words (NCHW)."""
        packed = self.packed
        return Call(
            grid=self.grid, threads=32 * self.tile.warps,
            shared=self._bytes(packed.chunk, packed.longest),
            arguments=[
                x, packed.lists.weights, packed.lists.offsets, packed.starts, packed.lists.runs,
                packed.slots, bias, residual, y, self._layer(packed, activation),
            ],
        )  # fmt: skip

    def _pack(self, slots: Tensor, chunk: int) -> Packed:
        device, taps = self.weight.values.device, self.space.taps
        places = [
            4 * ((channel * self.space.phases + phase) * self.span + shift)
            for channel in range(chunk)
            for phase, shift in taps
        ]
        lists = columns.lists(self.weight.values, slots, torch.tensor(places), chunk, granule=2)
        starts = torch.nn.functional.pad(lists.starts // 2, (0, 3))
        longest = int(lists.runs.diff().max())
        return Packed(chunk, longest, slots.to(device, torch.int32), lists, starts)

    def _guess(self) -> int:
        """Channels of a chunk; 0 where not even one fits."""
        channels = self.space.shape.channels
        groups = self.weight.groups(self.v)[0].shape[0]
        each = self.weight.columns(self.v) / (groups * channels)  # columns of a group and channel
        fixed = self._bytes(0, 4 + self.tile.slots)
        one = self._bytes(1, math.ceil(MARGIN * self.tile.slots * each)) - self._bytes(0, 0)
        most = max(0, self.tile.budget - fixed) // one
        wanted = min(most, math.ceil(ENOUGH / max(each, 1e-6)), channels)
        return math.ceil(channels / math.ceil(channels / wanted)) if wanted else 0

    def _bytes(self, chunk: int, longest: int) -> int:
        """Shared memory of a block: where the positions come from, and two stages."""
        plane = self.space.phases * self.span
        stage = chunk * plane + longest * (self.v + 1) + self.tile.slots + 4
        return 4 * (-(-plane // self.copy // 4) * 4 + 2 * stage)

    def _layer(self, packed: Packed, activation: int) -> _Layer:
        space, shape = self.space, self.space.shape
        phases = ((c_int * MAX_PHASES)(*axis.phases) for axis in (space.y, space.x))
        return _Layer(
            shape.images, shape.channels, *shape.size, shape.rows, *shape.out_size, *shape.stride,
            *shape.padding, activation, space.y.length, space.x.length, space.phases,
            len(space.x.phases), *phases, self.span, packed.chunk, self.blocks,
            packed.longest,
        )  # fmt: skip


class Packed(NamedTuple):
    """A weight as staged.cu reads it."""

    chunk: int
    longest: int  # columns of the longest run
    slots: Tensor  # int32 [blocks of rows, groups of a block, V]: output channels, -1 for none
    lists: Lists
    starts: Tensor  # int32 [runs, groups of a block + 4]: starts of the lists in pairs of columns

    @property
    def bytes(self) -> int:
        return self.lists.bytes + 4 * self.slots.numel()


class _Layer(ctypes.Structure):
    """Layer of staged.cu."""

    _fields_ = [
        *((name, c_int) for name in (
            "images", "channels", "height", "width", "rows", "out_height", "out_width",
            "stride_y", "stride_x", "pad_y", "pad_x", "activation", "lines", "pitch", "phases",
            "phases_x",
        )),
        ("phase_y", c_int * MAX_PHASES), ("phase_x", c_int * MAX_PHASES),
        *((name, c_int) for name in ("span", "chunk", "row_blocks", "longest")),
    ]  # fmt: skip

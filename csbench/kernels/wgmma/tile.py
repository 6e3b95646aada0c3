"""Tiles of wgmma/conv.cu: which fit a layer, what shared memory they take, the compiled kernel."""

from __future__ import annotations

from typing import NamedTuple

from csbench.kernels import nvrtc
from csbench.kernels.wgmma.pack import BLOCK

_SHARED = {1: 232448, 2: 115712}  # bytes a block may take where one or two share a processor
_MAX_STAGES = 6
# Tensor cores round sums towards zero; beyond this many k-steps the sums must leave them between.
_UNPROMOTED_STEPS = 8


class Kind(NamedTuple):
    """What is multiplied: 2:4 or dense weights; numbers of one fp16 or bf16, or two fp16."""

    sparse: bool
    planes: int
    bf16: bool = False


class Tile(NamedTuple):
    """A block's tile: wm x wn warpgroups, each mi * 64 output channels x n pixels.

    Results leave in `slots` chunks of `chunk` pixels; after every `promote` k-steps the sums are
    added up outside the tensor core (0: never); `blocks` share a multiprocessor.
    """

    wm: int
    wn: int
    mi: int
    n: int
    chunk: int
    slots: int
    promote: int
    blocks: int

    @property
    def rows(self) -> int:
        return BLOCK * self.mi * self.wm

    @property
    def pixels(self) -> int:
        return self.n * self.wn

    @property
    def threads(self) -> int:
        return 128 * self.wm * self.wn + (128 if self.blocks == 1 else 32)

    def stage_bytes(self, kind: Kind) -> int:
        per_block = kind.planes * BLOCK * (64 if kind.sparse else 128) + 512 * kind.sparse
        load = kind.planes * self.pixels * 128 + self.rows // BLOCK * per_block
        return -(-load // 1024) * 1024

    def fixed_bytes(self, kind: Kind) -> int:
        groups = self.wm * self.wn
        chunks = groups * self.slots * kind.planes * self.chunk * 128
        return 1024 + chunks + 8 * (2 * _MAX_STAGES + groups * self.slots)

    def stages(self, kind: Kind) -> int:
        room = _SHARED[self.blocks] - self.fixed_bytes(kind)
        return min(_MAX_STAGES, room // self.stage_bytes(kind))

    def shared(self, kind: Kind) -> int:
        return self.fixed_bytes(kind) + self.stages(kind) * self.stage_bytes(kind)

    def __str__(self) -> str:
        chunks = f"{self.slots} chunks of {self.chunk}"
        return f"{self.rows}x{self.pixels}, {chunks}, {self.blocks} a processor"


# Each: wm, wn, mi, n, chunk, slots, promote, blocks.
_TWO_PLANES = tuple(
    Tile(*numbers) for numbers in (
        (2, 1, 1, 128, 64, 2, 4, 1), (2, 1, 1, 96, 48, 2, 4, 1), (2, 1, 1, 192, 64, 2, 4, 1),
        (2, 1, 1, 192, 48, 1, 4, 1), (2, 1, 1, 128, 32, 1, 4, 1), (2, 1, 2, 96, 48, 2, 4, 1),
        (2, 1, 2, 128, 64, 2, 0, 1), (2, 1, 1, 64, 64, 1, 4, 2),
        (1, 2, 1, 64, 64, 1, 4, 1), (1, 2, 1, 64, 32, 1, 4, 2), (1, 2, 1, 128, 64, 1, 4, 1),
        (1, 2, 1, 96, 48, 1, 4, 1),
    )
)  # fmt: skip
_ONE_PLANE = tuple(
    Tile(*numbers) for numbers in (
        (2, 1, 1, 128, 64, 2, 0, 2), (2, 1, 1, 128, 64, 2, 0, 1), (2, 1, 1, 256, 64, 2, 0, 1),
        (2, 1, 1, 192, 64, 2, 0, 1), (2, 1, 1, 96, 48, 2, 0, 2), (2, 1, 2, 128, 64, 2, 0, 1),
        (2, 1, 1, 64, 64, 1, 0, 2), (1, 2, 1, 64, 64, 1, 0, 2), (1, 2, 1, 128, 64, 2, 0, 2),
        (1, 2, 1, 128, 64, 2, 0, 1),
    )
)  # fmt: skip


def candidates(kind: Kind, row_blocks: int, k_steps: int) -> dict[str, Tile]:
    """The tiles worth timing for a layer of `row_blocks` x 64 output channels, by name."""
    found = {}
    for tile in _TWO_PLANES if kind.planes == 2 else _ONE_PLANE:
        exact = kind.planes == 1 or tile.promote or k_steps <= _UNPROMOTED_STEPS
        if row_blocks % (tile.rows // BLOCK) == 0 and tile.stages(kind) >= 2 and exact:
            found[str(tile)] = tile
    return found


def options(kind: Kind, tile: Tile) -> tuple[str, ...]:
    """The compiler's -D options for one tile."""
    values = {
        "SPARSE": int(kind.sparse), "BF16": int(kind.bf16), "PLANES": kind.planes,
        "WM": tile.wm, "WN": tile.wn, "MI": tile.mi, "N": tile.n, "STAGES": tile.stages(kind),
        "CHUNK": tile.chunk, "SLOTS": tile.slots, "PROMOTE": tile.promote, "CTAS": tile.blocks,
    }  # fmt: skip
    return tuple(f"-DCS_{name}={value}" for name, value in values.items())


def kernel(kind: Kind, tile: Tile) -> nvrtc.Kernel:
    """The convolution kernel of one tile on torch's current device."""
    module = nvrtc.load("wgmma/conv.cu", options=options(kind, tile))
    return module.kernel("cs_conv").prepare(shared=tile.shared(kind))

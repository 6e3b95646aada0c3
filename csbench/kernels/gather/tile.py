"""Tiles of gather/conv.cu: what shared memory they take, the compiled kernel."""

from __future__ import annotations

from typing import NamedTuple

from csbench.errors import BackendError
from csbench.kernels import nvrtc
from csbench.kernels.gather.deal import STEP
from csbench.kernels.gather.layout import WIDE
from csbench.kernels.gather.pack import WINDOW_CHANNELS

_PROCESSOR, _RESERVED = 233472, 1024  # bytes of shared memory, and what each block loses
_MAX_SLOTS = 8
_REGISTERS = 4  # the number of a kernel's attribute
_LANES = 32  # of the warp that copies, one box (or pixel of a window) each


class Kind(NamedTuple):
    """Numbers of one fp16 or bf16, or of two fp16 (high and low)."""

    planes: int
    bf16: bool = False


class Tile(NamedTuple):
    """A block: units x warps along columns x warps along K; a warp has m tiles of 16 columns.

    `unit` is in output channels, `promote` in k-steps (0: never); `blocks` share a multiprocessor;
    `ahead` records of a warp are on their way while one is multiplied (0: stages hold them). With a
    `shared` window the four blocks of columns are 2 x 2 pixels, and a stage holds what they read of
    16 channels. `together`: four warps multiply one unit by wgmma, and with `copying` a warp of its
    own copies.
    """

    unit: int
    m: int
    groups: int
    along: int
    parts: int
    split: bool
    promote: int
    blocks: int
    ahead: int
    shared: bool = False
    together: bool = False
    copying: bool = False

    @property
    def warps(self) -> int:
        return self.groups * self.along * self.parts

    @property
    def threads(self) -> int:
        return 32 * (self.warps + self.copiers)

    @property
    def copiers(self) -> int:
        """Warps that only copy, or idle: registers are dealt anew to four warps at a time."""
        return 4 if self.copying else int(self.split)

    @property
    def column_blocks(self) -> int:
        """Blocks of 64 columns."""
        return self.along * self.m // 4

    @property
    def copied(self) -> int:
        """Blocks of columns that a stage has boxes for."""
        return 1 if self.shared else self.column_blocks

    @property
    def box_channels(self) -> int:
        """Channels of a box."""
        return WINDOW_CHANNELS if self.shared else WIDE


class Packing(NamedTuple):
    """What a plan asks of the packed weights: boxes of a stage, whether a record may hold columns
    of two stages, whether a stage is a shared window, and whether weights are in wgmma's order."""

    boxes: int
    spans: bool
    shared: bool = False
    together: bool = False


class Plan(NamedTuple):
    """A tile, the blocks of a cluster that share K, and what a stage and the ring hold.

    With two `buffers` a tile's residual arrives while the tile before is multiplied. `records` of a
    unit have room in a stage; 0 where a warp reads them from memory.
    """

    tile: Tile
    ranks: int
    boxes: int
    slots: int
    buffers: int
    records: int

    def unit_bytes(self, kind: Kind) -> int:
        """Of a stage, for a unit's records."""
        return self.records * record_bytes(kind, self.tile.unit)

    def slot_bytes(self, kind: Kind) -> int:
        t = self.tile
        boxes = t.copied * kind.planes * self.boxes * t.box_channels * 2 * WIDE
        return -(-(boxes + t.groups * self.unit_bytes(kind)) // 1024) * 1024

    def scratch(self, kind: Kind) -> int:
        """Where results lie, after stages (or sums, where K is split)."""
        t = self.tile
        sums = t.warps * t.m * t.unit // 8 * 512 if t.split else 0
        return max(self.slots * self.slot_bytes(kind), -(-sums // 1024) * 1024)

    def scratch_bytes(self, kind: Kind) -> int:
        """Results of a tile, 64 columns in a row; half of them where they go out in two passes."""
        t = self.tile
        passes = 2 if t.together and self.buffers == 1 else 1
        return t.groups * t.column_blocks * kind.planes * t.unit * 128 // passes

    def barriers(self, kind: Kind) -> int:
        return self.scratch(kind) + self.buffers * self.scratch_bytes(kind)

    def factors(self, kind: Kind) -> int:
        """Where each warp's scales and biases lie, after barriers and a corner for each lane."""
        return self.barriers(kind) + 16 * (self.slots + _LANES)

    def shared(self, kind: Kind) -> int:
        return 1024 + self.factors(kind) + 8 * self.tile.warps * self.tile.unit

    @property
    def packing(self) -> Packing:
        return packing(self.tile, self.boxes)

    def __str__(self) -> str:
        t = self.tile
        k = f", K by {self.ranks} x {t.parts}" if t.split else ""
        records = f"{t.ahead} ahead" if t.ahead else "with records"
        if t.together:
            records = "wgmma" + ", one copies" * t.copying
        return (
            f"{t.groups * t.unit}x{t.along * t.m * 16}, {t.warps} warps{k}, "
            f"{self.slots} stages of {'a window' if t.shared else self.boxes}, {records}, "
            f"{t.blocks} a processor"
        )


def packing(tile: Tile, boxes: int) -> Packing:
    """Where stages are dealt out, no record holds columns of two."""
    return Packing(boxes, not tile.split, tile.shared, tile.together)


def record_bytes(kind: Kind, unit: int) -> int:
    """Of a k-step of a unit: weights, and where the rows of 16 columns lie."""
    return STEP * 2 * (kind.planes * unit + 1)


def plan(
    kind: Kind, tile: Tile, ranks: int, boxes: int, residual: bool, records: int
) -> Plan | None:
    """The plan with as many stages as fit; None where it cannot be launched.

    `records` of a unit have room in a stage; 0 where a warp reads them from memory. Each part of K
    has its own slots of the ring: no part may wait for another's.
    """
    if tile.copied * kind.planes * boxes > _LANES:
        return None
    buffers = 2 if residual and not tile.split else 1
    for slots in range(_MAX_SLOTS // tile.parts * tile.parts, 1, -tile.parts):
        found = Plan(tile, ranks, boxes, slots, buffers, records)
        if found.shared(kind) <= _PROCESSOR // tile.blocks - _RESERVED:
            return found
    return None


def options(kind: Kind, tile: Tile, swizzled: bool, unfold: bool) -> tuple[str, ...]:
    """The compiler's -D options for one tile."""
    values = {
        "PLANES": kind.planes, "N": tile.unit // 8, "M": tile.m, "GROUPS": tile.groups,
        "COLUMNS": tile.along, "PARTS": tile.parts, "SPLIT": int(tile.split),
        "SWIZZLED": int(swizzled), "WINDOW": int(tile.shared), "WGMMA": int(tile.together),
        "COPIERS": tile.copiers,
        "PROMOTE": tile.promote, "BLOCKS": tile.blocks, "AHEAD": tile.ahead,
        "UNFOLD": int(unfold),
    }  # fmt: skip
    named = (f"-DGATHER_{name}={value}" for name, value in values.items())
    return (f"-DCS_BF16={int(kind.bf16)}", *named)


def kernel(kind: Kind, p: Plan, swizzled: bool, unfold: bool) -> nvrtc.Kernel:
    """The convolution kernel of one plan on torch's current device."""
    module = nvrtc.load("gather/conv.cu", options=options(kind, p.tile, swizzled, unfold))
    made = module.kernel("gather_conv").prepare(shared=p.shared(kind))
    if p.tile.copying:
        check_registers(made, p.tile)
    return made


def check_registers(made: nvrtc.Kernel, tile: Tile) -> None:
    """BackendError where a block does not have the registers that it deals anew: it would hang."""
    wanted, found = 65536 // tile.blocks // tile.threads // 8 * 8, made.attribute(_REGISTERS)
    if found != wanted:
        raise BackendError(f"the compiler gave {found} registers to a thread, not {wanted}")

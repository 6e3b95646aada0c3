"""Tiles of gather/conv.cu: which fit a layer, what shared memory they take, the compiled kernel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from csbench.kernels import nvrtc
from csbench.kernels.gather.deal import STEP
from csbench.kernels.gather.layout import WIDE
from csbench.kernels.gather.pack import WINDOW_CHANNELS

_PROCESSOR, _RESERVED = 233472, 1024  # bytes of shared memory, and what each block loses
_MAX_SLOTS = 8
_LANES = 32  # of the warp that copies, one box (or pixel of a window) each
# Tensor cores round sums toward zero: after so many k-steps of three products the sums leave them.
PROMOTE = 8


class Kind(NamedTuple):
    """Numbers of one fp16 or bf16, or of two fp16 (high and low)."""

    planes: int
    bf16: bool = False


class Tile(NamedTuple):
    """A block: units x warps along columns x warps along K; a warp has m tiles of 16 columns.

    `unit` is in output channels, `promote` in k-steps (0: never); `blocks` share a multiprocessor;
    `ahead` records of a warp are on their way while one is multiplied. With a `shared` window the
    four blocks of columns are 2 x 2 pixels, and a stage holds what they read of 16 channels.
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

    @property
    def warps(self) -> int:
        return self.groups * self.along * self.parts

    @property
    def threads(self) -> int:
        return 32 * (self.warps + self.split)

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
    of two stages, and whether a stage is a shared window."""

    boxes: int
    spans: bool
    shared: bool = False


class Plan(NamedTuple):
    """A tile, the blocks of a cluster that share K, and what a stage and the ring hold.

    With two `buffers` a tile's residual arrives while the tile before is multiplied.
    """

    tile: Tile
    ranks: int
    boxes: int
    slots: int
    buffers: int

    def slot_bytes(self, kind: Kind) -> int:
        return self.tile.copied * kind.planes * self.boxes * self.tile.box_channels * 2 * WIDE

    def scratch(self, kind: Kind) -> int:
        """Where results lie, after stages (or sums, where K is split)."""
        t = self.tile
        sums = t.warps * t.m * t.unit // 8 * 512 if t.split else 0
        return max(self.slots * self.slot_bytes(kind), -(-sums // 1024) * 1024)

    def scratch_bytes(self, kind: Kind) -> int:
        """Results of a tile, 64 columns in a row."""
        t = self.tile
        return t.groups * t.column_blocks * kind.planes * t.unit * 128

    def barriers(self, kind: Kind) -> int:
        return self.scratch(kind) + self.buffers * self.scratch_bytes(kind)

    def factors(self, kind: Kind) -> int:
        """Where each warp's scales and biases lie, after barriers and a corner for each lane."""
        return self.barriers(kind) + 16 * (self.slots + _LANES)

    def shared(self, kind: Kind) -> int:
        return 1024 + self.factors(kind) + 8 * self.tile.warps * self.tile.unit

    @property
    def packing(self) -> Packing:
        """Where stages are dealt out, no record holds columns of two."""
        return Packing(self.boxes, spans=not self.tile.split, shared=self.tile.shared)

    def __str__(self) -> str:
        t = self.tile
        k = f", K by {self.ranks} x {t.parts}" if t.split else ""
        return (
            f"{t.groups * t.unit}x{t.along * t.m * 16}, {t.warps} warps{k}, "
            f"{self.slots} stages of {'a window' if t.shared else self.boxes}, {t.ahead} ahead, "
            f"{t.blocks} a processor"
        )


def plan(kind: Kind, tile: Tile, ranks: int, boxes: int, residual: bool) -> Plan | None:
    """The plan with as many stages as fit; None where it cannot be launched.

    Each part of K has its own slots of the ring: no part may wait for another's.
    """
    if tile.copied * kind.planes * boxes > _LANES:
        return None
    buffers = 2 if residual and not tile.split else 1
    for slots in range(_MAX_SLOTS // tile.parts * tile.parts, 1, -tile.parts):
        found = Plan(tile, ranks, boxes, slots, buffers)
        if found.shared(kind) <= _PROCESSOR // tile.blocks - _RESERVED:
            return found
    return None


class Load(NamedTuple):
    """What a layer gives the device to do."""

    units: int
    unit: int
    column_blocks: int
    total_boxes: int
    density: float
    residual: bool
    window: int = 0  # pixels that 2 x 2 output pixels share; 0: they cannot
    windows: int = 0  # of the layer


def candidates(kind: Kind, load: Load, processors: int) -> dict[str, Plan]:
    """Plans worth timing, by name: enough blocks to fill the device, stages of enough columns."""
    found: dict[str, Plan] = {}
    for tile, ranks in _tiles(kind, load):
        for boxes in _stages(load):
            made = _fitting(kind, tile, ranks, boxes, load.residual)
            if made is None:
                continue
            blocks = ranks * -(-load.units // tile.groups)
            blocks *= -(-load.column_blocks // tile.column_blocks)
            if _worthwhile(made, load, blocks, processors):
                found[str(made)] = made
    found |= _windows(kind, load, processors)
    return found or _smallest(kind, load)


def _windows(kind: Kind, load: Load, processors: int) -> dict[str, Plan]:
    """The plans whose blocks of columns share a window."""
    found: dict[str, Plan] = {}
    tiles = [tile for tile in _whole(kind, load) if tile.column_blocks == 4]
    if kind.planes == 1 and load.unit == 32:  # a window for twice the rows; sixteen warps
        tiles += [Tile(32, 4, 4, 4, 1, False, 0, 1, ahead) for ahead in (1, 2)]
    for tile in tiles if load.window else ():
        made = plan(kind, tile._replace(shared=True), 1, load.window, load.residual)
        if made and -(-load.units // tile.groups) * load.windows >= processors // 2:
            found[str(made)] = made
    return found


def _fitting(kind: Kind, tile: Tile, ranks: int, boxes: int, residual: bool) -> Plan | None:
    """The plan with stages of so many boxes, or of as many as leave room for two."""
    made = plan(kind, tile, ranks, boxes, residual)
    return made if made or boxes == 1 else _fitting(kind, tile, ranks, boxes // 2, residual)


def _smallest(kind: Kind, load: Load) -> dict[str, Plan]:
    """For a layer that fills no device: a block for every unit and 64 columns."""
    tile = Tile(load.unit, 4, 1, 1, 1, False, _promote(kind), 1, 1)
    made = plan(kind, tile, 1, 1, load.residual)
    assert made is not None
    return {str(made): made}


def _worthwhile(p: Plan, load: Load, blocks: int, processors: int) -> bool:
    t, stages = p.tile, -(-load.total_boxes // p.boxes)
    if not t.split:
        most = 8 * processors if t.warps < 4 else blocks
        return processors // 2 <= blocks <= most or (t.groups, t.along) == (1, 4)
    spread = p.ranks * t.parts
    return spread > 1 and stages >= spread and processors // 3 <= blocks <= 4 * processors


def _stages(load: Load) -> list[int]:
    """Boxes of a stage: about one k-step of kept columns, half as many and twice as many."""
    wanted, most = STEP / max(load.density * 64, 1e-6), min(4, load.total_boxes)
    fewest = next((n for n in (1, 2) if n >= wanted), 4)
    sizes = [1, 2, 4][: most.bit_length()]
    return sorted({min(max(n, 1), sizes[-1]) for n in (fewest // 2, fewest, 2 * fewest)})


def _promote(kind: Kind) -> int:
    return PROMOTE if kind.planes == 2 else 0


def _tiles(kind: Kind, load: Load) -> Iterator[tuple[Tile, int]]:
    """Tiles, and the blocks of a cluster."""
    yield from ((tile, 1) for tile in _whole(kind, load))
    for ranks in (1, 2, 4, 8):
        yield from ((tile, ranks) for tile in _split(kind, load, ranks))


def _whole(kind: Kind, load: Load) -> Iterator[Tile]:
    """Every block takes all of K. More columns a warp where units are small.

    Eight warps a processor have 255 registers each, sixteen half of it.
    """
    sums = load.unit // 8 * kind.planes  # of an m16 tile, in fours
    m = 4 if load.unit == 32 else 8
    warps = 8 if sums * m > 16 else 16
    for groups, along in ((4, 2), (8, 1), (2, 4), (2, 2), (4, 1), (1, 4), (2, 1), (1, 1)):
        for ahead in (1,) if kind.planes == 2 else (1, 2) if groups * along == 8 else (2,):
            blocks = min(4, warps // (groups * along))
            if groups <= max(1, load.units):
                yield Tile(load.unit, m, groups, along, 1, False, _promote(kind), blocks, ahead)
    if kind.planes == 1 and load.unit == 32:  # eight warps a processor have room for more
        for groups, along, m in (
            (4, 1, 8), (8, 1, 8), (4, 2, 8), (2, 2, 8), (8, 1, 4), (4, 2, 4), (2, 4, 4)
        ):  # fmt: skip
            if groups <= load.units:
                blocks = 8 // (groups * along)
                yield Tile(load.unit, m, groups, along, 1, False, 0, blocks, 3)


def _split(kind: Kind, load: Load, ranks: int) -> Iterator[Tile]:
    """K is dealt to the warps of a block and to the blocks of a cluster."""
    steps = load.total_boxes * load.density * 64 / STEP  # of a unit
    for groups, parts in ((1, 4), (1, 8), (2, 4), (4, 2), (4, 1), (2, 1), (1, 1)):
        short = steps <= 1.5 * PROMOTE * ranks * parts
        promote = 0 if short else _promote(kind)
        # Two sets of sums need more registers than nine warps have.
        if groups <= max(1, load.units) and not (promote and groups * parts > 4):
            ahead = 1 if kind.planes == 2 else 2
            yield Tile(load.unit, 4, groups, 1, parts, True, promote, 1, ahead)


def options(kind: Kind, tile: Tile, swizzled: bool) -> tuple[str, ...]:
    """The compiler's -D options for one tile."""
    values = {
        "PLANES": kind.planes, "N": tile.unit // 8, "M": tile.m, "GROUPS": tile.groups,
        "COLUMNS": tile.along, "PARTS": tile.parts, "SPLIT": int(tile.split),
        "SWIZZLED": int(swizzled), "WINDOW": int(tile.shared), "PROMOTE": tile.promote,
        "BLOCKS": tile.blocks, "AHEAD": tile.ahead,
    }  # fmt: skip
    named = (f"-DGATHER_{name}={value}" for name, value in values.items())
    return (f"-DCS_BF16={int(kind.bf16)}", *named)


def kernel(kind: Kind, p: Plan, swizzled: bool) -> nvrtc.Kernel:
    """The convolution kernel of one plan on torch's current device."""
    module = nvrtc.load("gather/conv.cu", options=options(kind, p.tile, swizzled))
    return module.kernel("gather_conv").prepare(shared=p.shared(kind))

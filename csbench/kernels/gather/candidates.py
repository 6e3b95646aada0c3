"""Plans of gather/conv.cu that are worth timing for a layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from csbench.kernels.gather.deal import STEP
from csbench.kernels.gather.tile import Kind, Packing, Plan, Tile, packing, plan

# Tensor cores round sums toward zero: after so many k-steps of three products the sums leave them.
PROMOTE = 8


class Load(NamedTuple):
    """What a layer gives the device to do."""

    units: int
    unit: int
    column_blocks: int
    total_boxes: int
    density: float
    residual: bool
    large: bool  # the batch: 64 neighbouring columns are images
    records: Callable[[Packing], int]  # the most of a unit in a stage
    window: int = 0  # pixels that 2 x 2 output pixels share; 0: they cannot
    windows: int = 0  # of the layer

    def plan(self, kind: Kind, tile: Tile, ranks: int, boxes: int) -> Plan | None:
        """The plan, with room for records where stages hold them."""
        records = 0 if tile.ahead else self.records(packing(tile, boxes))
        return plan(kind, tile, ranks, boxes, self.residual, records)


def candidates(kind: Kind, load: Load, processors: int) -> dict[str, Plan]:
    """Plans worth timing, by name: enough blocks to fill the device, stages of enough columns."""
    found: dict[str, Plan] = {}
    for tile, ranks in _tiles(kind, load):
        for boxes in _stages(load):
            made = _fitting(kind, tile, ranks, boxes, load)
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
        made = load.plan(kind, tile._replace(shared=True), 1, load.window)
        if made and -(-load.units // tile.groups) * load.windows >= processors // 2:
            found[str(made)] = made
    return found


def _fitting(kind: Kind, tile: Tile, ranks: int, boxes: int, load: Load) -> Plan | None:
    """The plan with stages of so many boxes, or of as many as leave room for two."""
    made = load.plan(kind, tile, ranks, boxes)
    return made if made or boxes == 1 else _fitting(kind, tile, ranks, boxes // 2, load)


def _smallest(kind: Kind, load: Load) -> dict[str, Plan]:
    """For a layer that fills no device: a block for every unit and 64 columns."""
    tile = Tile(load.unit, 4, 1, 1, 1, False, _promote(kind), 1, 1)
    made = load.plan(kind, tile, 1, 1)
    assert made is not None
    return {str(made): made}


def _worthwhile(p: Plan, load: Load, blocks: int, processors: int) -> bool:
    t, stages = p.tile, -(-load.total_boxes // p.boxes)
    if not t.split:
        most = 8 * processors if t.warps < 4 else blocks
        alone = (t.groups, t.along) == (1, 4) and not t.together
        return processors // 2 <= blocks <= most or alone
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
        for ahead in _ahead(kind, load, groups * along):
            blocks = min(4, warps // (groups * along))
            if groups <= max(1, load.units):
                yield Tile(load.unit, m, groups, along, 1, False, _promote(kind), blocks, ahead)
    if kind.planes == 1 and load.unit == 32:  # eight warps a processor have room for more
        for groups, along, m in (
            (4, 1, 8), (8, 1, 8), (4, 2, 8), (2, 2, 8), (8, 1, 4), (4, 2, 4), (2, 4, 4)
        ):  # fmt: skip
            slow = load.large and m == 4  # at 50 % by 14 % and more
            if groups > load.units or slow:
                continue
            for ahead in (3,) if load.large else (0, 3):
                blocks = 8 // (groups * along)
                yield Tile(load.unit, m, groups, along, 1, False, 0, blocks, ahead)
    if kind.planes == 1 and load.unit == 32 and load.large:  # four warps of a unit together
        for groups, blocks in ((4, 1), (2, 2), (2, 1), (1, 2)):
            if groups <= load.units:
                tile = Tile(load.unit, 4, groups, 4, 1, False, 0, blocks, 0, together=True)
                yield tile
                if groups * blocks < 4 or blocks == 1:  # else all registers are in use
                    yield tile._replace(copying=True)


def _ahead(kind: Kind, load: Load, warps: int) -> tuple[int, ...]:
    """Records that a warp reads ahead; 0: they come with the stages, at small batch only."""
    if kind.planes == 2:
        return (1,)
    return ((1, 2) if warps == 8 else (2,)) if load.large else (0, 2)


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

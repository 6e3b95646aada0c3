"""Tiles and shared memory of latency/conv.cu: the ways to run a layer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from csbench.kernels.latency.pack import STEP, VECTORS, Order

SHARED_LIMIT = 226 * 1024
_BOX = 256  # pixels along one side that the copy engine fetches at a time


class Tile(NamedTuple):
    """Output tile of a block: m16 x n8 tensor-core tiles of a warp, warps along rows, pixels, K."""

    mt: int
    nt: int
    wm: int
    wn: int
    wk: int
    blocks: int  # resident in one multiprocessor, at least

    @property
    def rows(self) -> int:
        return self.mt * self.wm * 16

    @property
    def pixels(self) -> int:
        return self.nt * self.wn * 8

    @property
    def threads(self) -> int:
        return self.wm * self.wn * self.wk * 32


# Of 24 shapes measured on every layer of ResNet50 the first ten lose 0.1 % to all; two are for
# batches that fill the device by themselves, and four have 16 warps to hide more latency.
TILES = (
    Tile(2, 4, 2, 1, 4, 2), Tile(2, 2, 1, 1, 8, 2), Tile(2, 4, 1, 1, 8, 2), Tile(1, 7, 4, 1, 2, 2),
    Tile(2, 2, 2, 1, 4, 2), Tile(1, 4, 4, 1, 2, 2), Tile(1, 4, 2, 1, 4, 2), Tile(2, 1, 1, 1, 8, 2),
    Tile(2, 7, 1, 1, 8, 1), Tile(2, 4, 4, 1, 2, 2), Tile(2, 7, 2, 2, 2, 1), Tile(2, 7, 4, 1, 2, 1),
    Tile(2, 2, 1, 1, 16, 1), Tile(2, 4, 1, 1, 16, 1), Tile(2, 1, 1, 1, 16, 1),
    Tile(2, 2, 2, 1, 8, 1),
)  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """What a convolution does to the image: sizes, window, stride, padding before the first."""

    images: int
    height: int
    width: int
    rows: int  # stored output channels
    out_height: int
    out_width: int
    taps: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    @property
    def point(self) -> bool:
        return self.taps == (1, 1) and self.padding == (0, 0)

    @property
    def extent(self) -> tuple[int, int]:
        """Input pixels from the first to the last tap, both included."""
        (h, w), (dh, dw) = self.taps, self.dilation
        return (h - 1) * dh + 1, (w - 1) * dw + 1

    def flat(self) -> Shape:
        """The same with all images in one row of pixels, where neighbours do not matter."""
        if not (self.point and self.stride == 1):
            return self
        pixels = self.images * self.height * self.width
        return replace(self, images=1, height=1, width=pixels, out_height=1, out_width=pixels)


@dataclass(frozen=True)
class Plan:
    """One way to run one shape: its tile, blocks along K, and how K is staged."""

    tile: Tile
    cluster: int
    chunk_log: int
    chunks: int
    stages: int
    span: int  # output pixels of a tile: whole rows where neighbours are read
    box: tuple[int, int]  # rows and columns of the input tile
    receive: int
    shared: int
    grid: tuple[int, int]

    def __str__(self) -> str:
        t = self.tile
        return (
            f"{t.rows}x{self.span} warps {t.wm}x{t.wn}x{t.wk} K/{self.cluster} "
            f"chunks of {32 << self.chunk_log} x{self.stages}"
        )


def make_plan(
    shape: Shape, order: Order, m: int, split: bool, tile: Tile, cluster: int, chunk_log: int,
    most: Callable[[int], int] | None = None,
) -> Plan | None:  # fmt: skip
    """The plan with these choices; None where it cannot be launched.

    `most` says of weights in vectors how many bytes a unit has in a chunk of so many steps (log2).
    """
    s, planes = shape.flat(), 2 if split else 1
    span = tile_span(s, tile.pixels)
    box = input_tile(s, span)
    sets, run = order.sets_for(m)
    chunks = -(-sets * run >> chunk_log)
    if chunks < cluster or max(fetched(s, box)) > _BOX:
        return None
    if most is None:
        units = s.taps[0] * s.taps[1] * max(1, (1 << chunk_log) // run)
        weights = _up(units * tile.rows // 16 * record_bytes(m, split))
    else:
        weights = _up(tile.wm * most(chunk_log))
    groups = 1 << max(0, chunk_log - 1)
    stage = weights + groups * planes * plane_bytes(box, chunk_log)
    stages = min(3, -(-chunks // cluster))
    while stages > 1 and stages * stage > SHARED_LIMIT // tile.blocks:
        stages -= 1
    receive = _up(max(stages * stage, tile.wk * tile.pixels * (tile.rows + 4) * 4))
    # Sums from the cluster's blocks: each hands over its part of this block's pixels.
    handed = cluster * -(-span // cluster) * tile.rows * 4 if cluster > 1 else 0
    if receive + handed > SHARED_LIMIT:
        return None
    tiles = s.images * -(-s.out_height * s.out_width // span)
    grid = (cluster * -(-s.rows // tile.rows), tiles)
    shared = receive + handed
    return Plan(tile, cluster, chunk_log, chunks, stages, span, box, receive, shared, grid)


def plane_bytes(box: tuple[int, int], chunk_log: int) -> int:
    """Bytes of one plane of up to 64 channels of the input tile."""
    return _up(box[0] * box[1] * (128 if chunk_log else 64))


def record_bytes(m: int, split: bool) -> int:
    """Bytes of the weights of 16 rows in one (set, tap) unit: values, choices, metadata."""
    values = (2 if split else 1) * (8 if m == 1 else 4 if m == 2 else 2) * 128
    return values + (0 if m == 1 else 64 if m == 2 else 160)


def tile_span(s: Shape, pixels: int) -> int:
    """Output pixels of a tile that has room for `pixels`.

    A tile is fetched as whole rows of pixels: it needs fewest where it is made of whole rows, or
    of equal parts of one.
    """
    rows, width = pixels // s.out_width, s.out_width
    if s.out_height == 1:
        return pixels
    span = rows * width or max(n for n in range(1, pixels + 1) if width % n == 0)
    return span if 4 * span >= 3 * pixels else pixels


def input_tile(s: Shape, pixels: int) -> tuple[int, int]:
    """Rows and columns of input pixels under `pixels` consecutive output pixels, whole rows."""
    step = 1 if s.point else s.stride
    if is_cut(s, pixels):
        return s.extent[0], (pixels - 1) * step + s.extent[1]
    total, most = s.out_height * s.out_width, 0
    for first in range(0, total, pixels):
        last = min(first + pixels, total) - 1
        most = max(most, last // s.out_width - first // s.out_width)
    return most * step + s.extent[0], (s.out_width - 1) * step + s.extent[1]


def is_cut(s: Shape, pixels: int) -> bool:
    """Whether every tile of so many pixels lies within one row of output pixels."""
    return s.out_height == 1 or s.out_width % pixels == 0


def fetched(s: Shape, box: tuple[int, int]) -> tuple[int, int]:
    """What the copy engine walks over for a tile: it skips pixels itself where none is shared."""
    step = s.stride if s.point else 1
    return (box[0] - 1) * step + 1, (box[1] - 1) * step + 1


def _up(size: int) -> int:
    return -(-size // 1024) * 1024


def candidates(
    shape: Shape, order: Order, m: int, split: bool, most: Callable[[int], int] | None = None
) -> list[Plan]:
    """Plans worth measuring: enough blocks to fill the device, K whole or staged in few chunks."""
    # Of vectors a warp takes 32 rows, and finds 64 channels side by side.
    least, most = 1 if m == VECTORS else 0, functools.cache(most) if most else None
    plans = []
    for tile in TILES:
        if tile.rows >= 2 * max(32, shape.rows) or (m == VECTORS and tile.mt != 2):
            continue
        for cluster in (1, 2, 4, 8):
            top = (-(-order.stored // STEP // cluster) - 1).bit_length()
            for chunk_log in range(max(least, top - 1), max(least, top) + 1):
                plan = make_plan(shape, order, m, split, tile, cluster, chunk_log, most)
                if plan is not None:
                    plans.append(plan)
    blocks = [p.grid[0] * p.grid[1] for p in plans]
    enough = min(100, max(blocks, default=0) // 2)
    return [p for p, n in zip(plans, blocks, strict=True) if enough <= n <= 1200]

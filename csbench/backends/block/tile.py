"""How one launch of kernels/block/block.cu divides a layer: the words are those of that file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

PRECISIONS = {"fp32": 0, "tf32": 1, "fp16": 2, "bf16": 3}
CLUSTERS = (1, 2, 4, 8)

# (lane pixels, warps, teams, channels a step in fp32, stages): first for large batches, then for
# few pixels and many steps, last for few of both.
SHAPES = (
    (8, 4, 1, 16, 2), (8, 2, 1, 16, 3), (8, 2, 1, 16, 2), (8, 1, 1, 16, 3), (8, 2, 2, 16, 2),
    (6, 4, 1, 16, 2), (6, 2, 1, 16, 3),
    (4, 4, 1, 16, 3), (4, 4, 1, 32, 2), (4, 2, 1, 32, 3), (4, 2, 1, 16, 4), (4, 2, 2, 32, 2),
    (4, 2, 4, 16, 3), (4, 1, 4, 32, 2), (4, 1, 8, 32, 2), (4, 1, 8, 16, 4),
    (2, 2, 2, 32, 3), (2, 2, 4, 32, 2), (2, 1, 4, 32, 3), (2, 1, 8, 32, 3), (2, 1, 2, 32, 4),
    (1, 2, 4, 32, 3), (1, 1, 4, 32, 4), (1, 1, 8, 32, 4),
    (4, 1, 4, 8, 3), (2, 4, 1, 32, 2), (2, 2, 2, 16, 3), (2, 2, 4, 8, 3), (2, 1, 4, 8, 4),
    (2, 1, 2, 16, 3), (2, 1, 8, 16, 4), (1, 4, 1, 32, 2), (1, 4, 2, 16, 3), (1, 1, 2, 16, 3),
    (1, 1, 4, 8, 4), (1, 1, 8, 8, 3), (1, 1, 8, 16, 4),
)  # fmt: skip


@dataclass(frozen=True)
class Tile:
    """One choice of the kernel's constants, and of the cluster that shares a row."""

    rows: int
    block_channels: int
    lane_pixels: int
    warps: int
    teams: int
    depth: int
    stages: int
    precision: int
    cluster: int = 1

    @property
    def element_bytes(self) -> int:
        return 4 if self.precision < 2 else 2

    @property
    def slices(self) -> int:
        return self.block_channels // self.depth

    @property
    def pixels(self) -> int:
        if self.precision:
            return 16 * self.lane_pixels * self.warps
        return 32 // max(1, self.rows // 16) * self.lane_pixels * self.warps

    @property
    def threads(self) -> int:
        return 32 * self.warps * self.teams

    @property
    def shared_bytes(self) -> int:
        """Shared memory: the stages, reused for the partial sums, and the pixels' positions."""
        stride = self.depth + 16 // self.element_bytes
        weights = self.rows * (stride if self.precision else self.depth)
        stages = self.teams * self.stages * (weights + self.pixels * stride) * self.element_bytes
        return max(stages, self.teams * self.pixels * (self.rows + 4) * 4) + 8 * self.pixels

    @property
    def options(self) -> tuple[str, ...]:
        values = {
            "ROWS": self.rows, "DEPTH": self.depth, "SLICES": self.slices,
            "LANE_PIXELS": self.lane_pixels, "WARPS": self.warps, "TEAMS": self.teams,
            "STAGES": self.stages, "PRECISION": self.precision,
        }  # fmt: skip
        return tuple(f"-D{name}={value}" for name, value in values.items())

    @property
    def fits(self) -> bool:
        """Whether the kernel's static assertions and the device's limits hold."""
        pieces = self.depth * self.element_bytes // 16
        team = 32 * self.warps
        return (
            pieces > 0
            and team % pieces == 0
            and self.pixels * pieces % team == 0
            and self.shared_bytes <= shared_limit()
        )

    def __str__(self) -> str:
        return (
            f"{self.rows}x{self.pixels} tile, {self.depth} deep, {self.warps}x{self.teams} warps, "
            f"{self.stages} stages, cluster {self.cluster}"
        )


def tiles(rows: int, channels: int, precision: int) -> Iterator[Tile]:
    """Every tile without clusters that blocks of rows x channels allow; none if they do not fit."""
    if rows not in ((16, 32, 64, 128) if precision else (4, 8, 16, 32, 64, 128)):
        return
    seen = set()
    for lane_pixels, warps, teams, depth, stages in SHAPES:
        if precision == 0 and rows == 128:
            lane_pixels = max(2, lane_pixels)
        possible = [d for d in depths(channels, precision) if precision or d <= depth]
        for d in possible[:1]:
            tile = Tile(rows, channels, lane_pixels, warps, teams, d, stages, precision)
            if tile.fits and tile not in seen:
                seen.add(tile)
                yield tile


def depths(channels: int, precision: int) -> list[int]:
    """Channels that one step may take, the most first: powers of two that divide the block."""
    least, most = ((4, 32), (8, 32), (16, 64), (16, 64))[precision]
    return [d for d in (64, 32, 16, 8, 4) if least <= d <= most and channels % d == 0]


def candidates(
    rows: int, channels: int, precision: int, *, block_rows: int, kept: int, positions: int
) -> list[Tile]:
    """The tiles worth timing on a layer of so many block rows, kept blocks in each, and pixels.

    Not far larger than the image, no split finer than the steps, and no split where the device is
    full several times over without it.
    """
    found = []
    full = 64 * multiprocessors()  # warps
    for tile in tiles(rows, channels, precision):
        if tile.pixels >= 2 * positions and tile.lane_pixels > 1:
            continue
        blocks = block_rows * -(-positions // tile.pixels)
        for cluster in CLUSTERS if has_clusters() else CLUSTERS[:1]:
            splits = cluster * tile.teams
            if splits > max(1, kept * tile.slices):
                continue
            if splits > 1 and blocks * splits * tile.warps > full:
                continue
            found.append(replace(tile, cluster=cluster))
    return found or [next(tiles(rows, channels, precision))]


@cache
def shared_limit() -> int:
    """Shared memory that one thread block may have; Hopper's where there is no device to ask."""
    return int(_properties().shared_memory_per_block_optin) if _properties() else 227 * 1024


@cache
def multiprocessors() -> int:
    return int(_properties().multi_processor_count) if _properties() else 132


@cache
def has_clusters() -> bool:
    return not _properties() or int(_properties().major) >= 9


@cache
def _properties() -> Any:
    return torch.cuda.get_device_properties() if torch.cuda.is_available() else None

"""How one launch of kernels/cutlass/block.cu divides a layer: the words are those of that file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from csbench.backends.block.tile import CLUSTERS, PRECISIONS, multiprocessors
from csbench.sparse.formats import VALUE_BYTES

# By rows. fp32: (pixels of a lane, warps), and a warp holds 32 rows. Else: (64-pixel groups of a
# warpgroup, warps). A third number limits the bytes of a pixel in a step: shorter steps let more
# blocks share a multiprocessor.
Shapes = dict[int, tuple[tuple[int, ...], ...]]
SIMT: Shapes = {
    16: ((4, 4), (2, 4), (2, 2), (2, 1)),
    32: ((8, 4, 64), (8, 2, 64), (4, 4), (4, 2), (2, 4), (2, 4, 64), (2, 2), (2, 1)),
    64: ((8, 4, 64), (8, 2, 64), (4, 4), (2, 4), (2, 2)),
    128: ((8, 4, 64), (8, 8, 64), (4, 4), (2, 4)),
}
TENSOR: Shapes = {
    16: ((1, 4), (4, 4)),
    32: ((1, 4), (2, 4), (4, 4), (2, 8)),
    64: ((1, 4), (2, 4), (1, 8), (2, 8)),
    128: ((1, 4), (1, 8), (2, 8)),
    256: ((1, 8),),
}
MAX_STAGES = 8
HEADER = 2048  # bytes of shared memory before the stages
SHARED, RESERVED = 228 * 1024, 1024  # of a multiprocessor, and what each block costs beside its own
REGISTERS = 65536
CLUSTERED = 0.8  # of the device's places for blocks: what clusters of any size surely fill


@dataclass(frozen=True)
class Tile:
    """One choice of the kernel's constants, and of the cluster that shares a row."""

    rows: int
    depth: int
    per_thread: int  # pixels of a lane in fp32, else groups of 64 pixels of a warpgroup
    warps: int
    precision: str
    cluster: int = 1

    @property
    def pixels(self) -> int:
        if self.precision != "fp32":
            return 64 * self.per_thread * self.warps // 4
        if self.rows == 16:
            return 32 * self.per_thread * self.warps
        return 16 * self.per_thread * self.warps * 32 // self.rows

    @property
    def threads(self) -> int:
        return 32 * self.warps

    @property
    def registers(self) -> int:
        """Of a thread: its sums, a residual that waits for them, and the rest."""
        sums = self.pixels * self.rows // self.threads
        if self.precision == "fp32":
            return sums + 48 + 4 * self.per_thread
        pieces = sums * VALUE_BYTES[self.precision] // 16
        return sums + 40 + 4 * min(4, pieces)

    @property
    def stage_bytes(self) -> int:
        lines = self.pixels + self.rows
        return -(-lines * self.depth * VALUE_BYTES[self.precision] // 1024) * 1024

    @property
    def resident(self) -> int:
        """Blocks that share a multiprocessor: as registers allow, but with three stages each."""
        most = max(1, REGISTERS // (self.threads * self.registers))
        fitting = (n for n in range(most, 1, -1) if self._room(n) >= 3 * self.stage_bytes)
        return next(fitting, 1)

    @property
    def stages(self) -> int:
        return min(MAX_STAGES, self._room(self.resident) // self.stage_bytes)

    def _room(self, resident: int) -> int:
        """Bytes for stages where so many blocks share a multiprocessor."""
        return min(SHARED // resident, SHARED) - RESERVED - HEADER

    def shared_bytes(self, stages: int) -> int:
        """Shared memory: the stages, reused for the sums where they do not leave registers."""
        pad = 4 if self.precision == "fp32" else 8
        sums = self.pixels * (self.rows + pad) * 4
        direct = self.precision == "fp32" and self.cluster == 1
        return HEADER + max(stages * self.stage_bytes, 0 if direct else sums)

    @property
    def options(self) -> tuple[str, ...]:
        values = {
            "PRECISION": PRECISIONS[self.precision], "ROWS": self.rows, "DEPTH": self.depth,
            "PIXELS": self.pixels, "WARPS": self.warps, "RESIDENT": self.resident,
        }  # fmt: skip
        return tuple(f"-D{name}={value}" for name, value in values.items())

    def __str__(self) -> str:
        return (
            f"{self.rows}x{self.pixels} tile, {self.depth} deep, {self.warps} warps, "
            f"cluster {self.cluster}"
        )


def tiles(rows: int, channels: int, precision: str) -> Iterator[Tile]:
    """Every tile without clusters for rows of so many output channels and blocks so deep."""
    seen = set()
    for per_thread, warps, *limit in (SIMT if precision == "fp32" else TENSOR).get(rows, ()):
        depth = deepest(channels, precision, *limit)
        tile = Tile(rows, depth, per_thread, warps, precision)
        if depth and tile not in seen:
            seen.add(tile)
            yield tile


def deepest(channels: int, precision: str, most_bytes: int = 128) -> int:
    """Channels of a step: as many as divide a block and make a row of a swizzle; 0 if none do."""
    width = VALUE_BYTES[precision]
    return next(
        (b // width for b in (128, 64, 32) if b <= most_bytes and channels % (b // width) == 0), 0
    )


def candidates(
    rows: tuple[int, ...], channels: int, precision: str, *, outputs: int, kept: int, positions: int
) -> list[Tile]:
    """The tiles worth timing where rows may be so wide, a row keeps so many blocks, and a layer has
    so many output channels and pixels.

    Not far larger than the image, no split finer than the steps, and none beyond a block for each
    multiprocessor, all at once; no small tile where the device is full several times over.
    """
    found = []
    all_of = {wide: list(tiles(wide, channels, precision)) for wide in rows}
    for wide, possible in all_of.items():
        for tile in possible:
            if tile.pixels >= 2 * positions and tile.pixels > 64:
                continue
            blocks = -(-outputs // wide) * -(-positions // tile.pixels)
            crowded = blocks > 2 * multiprocessors() * tile.resident
            if crowded and (wide * tile.pixels < 4096 or 4 * wide <= max(rows)):
                continue
            steps = max(1, kept * channels // tile.depth)
            for cluster in CLUSTERS:
                enough = min(1, CLUSTERED * tile.resident) * multiprocessors()
                if cluster > 1 and (cluster > steps or blocks * cluster > enough):
                    break
                found.append(replace(tile, cluster=cluster))
    return found or [min(all_of[rows[0]], key=lambda tile: tile.pixels)]

"""How one launch of kernels/cutlass/ divides a layer: the words are those of block.cu."""

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
# Of kernels/cutlass/persistent.cu, as SIMT: for fp32, and for rows that keep at most so many
# channels.
PERSISTENT: Shapes = {
    32: ((4, 4, 64), (2, 4, 64), (4, 2, 64), (2, 4), (2, 2, 64)),
    64: ((8, 4, 64),),
    128: ((8, 4, 64),),
}
MOST_KEPT, MOST_WALKED = 512, 2**30
PLACE_ROWS = 32  # of a line of the place where a residual is exchanged for results
MAX_STAGES = 8
HEADER = 2048  # bytes of shared memory before the stages
SHARED, RESERVED = 228 * 1024, 1024  # of a multiprocessor, and what each block costs beside its own
REGISTERS = 65536
CLUSTERED = 0.8  # of the device's places for blocks: what clusters of any size surely fill


@dataclass(frozen=True)
class Tile:
    """One choice of the kernel's constants, and of the cluster that shares a row.

    A persistent tile's thread blocks are as many as run at once, and walk the layer's tiles.
    """

    rows: int
    depth: int
    per_thread: int  # pixels of a lane in fp32, else groups of 64 pixels of a warpgroup
    warps: int
    precision: str
    cluster: int = 1
    persistent: bool = False

    @property
    def source(self) -> str:
        return "persistent.cu" if self.persistent else "block.cu"

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
        if self.persistent:
            return sums + 72 + 4 * self.per_thread
        if self.precision == "fp32":
            return sums + 48 + 4 * self.per_thread
        pieces = sums * VALUE_BYTES[self.precision] // 16
        return sums + 40 + 4 * min(4, pieces)

    @property
    def stage_bytes(self) -> int:
        lines = self.pixels + self.rows
        return -(-lines * self.depth * VALUE_BYTES[self.precision] // 1024) * 1024

    @property
    def place_bytes(self) -> int:
        """Where persistent blocks exchange a tile's residual for its results."""
        return 4 * self.pixels * self.rows if self.persistent else 0

    @property
    def resident(self) -> int:
        """Blocks that share a multiprocessor: as registers allow, but with three stages each.

        Two are enough where blocks stay; but then each quarter of the processor gets as many warps
        as the others, as no later block fills what is left.
        """
        most = max(1, REGISTERS // (self.threads * self.registers))
        stages, even = (2, 4) if self.persistent else (3, 1)
        fitting = (
            n for n in range(most, 1, -1)
            if self._room(n) >= stages * self.stage_bytes and n * self.warps % even == 0
        )  # fmt: skip
        return next(fitting, 1)

    @property
    def stages(self) -> int:
        return min(MAX_STAGES, self._room(self.resident) // self.stage_bytes)

    def _room(self, resident: int) -> int:
        """Bytes for stages where so many blocks share a multiprocessor."""
        return SHARED // resident - RESERVED - HEADER - self.place_bytes

    def shared_bytes(self, stages: int) -> int:
        """Shared memory: the stages, reused for the sums where they do not leave registers."""
        pad = 4 if self.precision == "fp32" else 8
        sums = self.pixels * (self.rows + pad) * 4
        if self.persistent:
            return HEADER + stages * self.stage_bytes + self.place_bytes
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
        blocks = "persistent" if self.persistent else f"cluster {self.cluster}"
        return f"{self.rows}x{self.pixels} tile, {self.depth} deep, {self.warps} warps, {blocks}"

    def grid(self, rows: int, positions: int) -> int:
        """Thread blocks for so many rows and pixels; a persistent one stays in its row."""
        tiles = -(-positions // self.pixels)
        if self.persistent:
            return rows * max(1, min(tiles, multiprocessors() * self.resident // rows))
        return rows * tiles * self.cluster


def tiles(rows: int, channels: int, precision: str, persistent: bool = False) -> Iterator[Tile]:
    """Every tile without clusters for rows of so many output channels and blocks so deep."""
    shapes = SIMT if precision == "fp32" else TENSOR
    if persistent:
        shapes = PERSISTENT if precision == "fp32" else {}
    seen = set()
    for per_thread, warps, *limit in shapes.get(rows, ()):
        depth = deepest(channels, precision, *limit)
        tile = Tile(rows, depth, per_thread, warps, precision, persistent=persistent)
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
    Persistent blocks only where there is a next tile, and little to multiply before it.
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
        if 4 * wide > max(rows):
            found += _persistent(wide, channels, precision, outputs, kept, positions)
    return found or [min(all_of[rows[0]], key=lambda tile: tile.pixels)]


def _persistent(
    wide: int, channels: int, precision: str, outputs: int, kept: int, positions: int
) -> Iterator[Tile]:
    # The copy engine takes lines of whole 16 bytes; a block counts pixels beyond the last ones.
    if outputs % (16 // VALUE_BYTES[precision]) or positions > MOST_WALKED:
        return
    rows = -(-outputs // wide)
    short = kept * channels <= MOST_KEPT
    for tile in tiles(wide, channels, precision, persistent=True) if short else ():
        if tile.grid(rows, positions) < rows * -(-positions // tile.pixels):
            yield tile

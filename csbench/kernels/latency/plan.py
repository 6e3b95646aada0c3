"""Tiles, shared memory and launches of latency/conv.cu."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_float, c_int, c_longlong, c_void_p
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

from torch import Tensor

from csbench.kernels import maps, nvrtc
from csbench.kernels.latency.io import Planes
from csbench.kernels.latency.pack import STEP, Order, Packed
from csbench.kernels.maps import TensorMap

SHARED_LIMIT = 226 * 1024
ACTIVATIONS = {"none": 0, "relu": 1, "relu6": 2}
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
    shape: Shape, order: Order, m: int, split: bool, tile: Tile, cluster: int, chunk_log: int
) -> Plan | None:
    """The plan with these choices; None where it cannot be launched."""
    s, planes = shape.flat(), 2 if split else 1
    span = tile_span(s, tile.pixels)
    box = input_tile(s, span)
    sets, run = order.sets_for(m)
    chunks = -(-sets * run >> chunk_log)
    if chunks < cluster or max(_fetched(s, box)) > _BOX:
        return None
    units = s.taps[0] * s.taps[1] * max(1, (1 << chunk_log) // run)
    weights = _up(units * tile.rows // 16 * record_bytes(m, split))
    groups, pitch = (1 << (chunk_log - 1), 128) if chunk_log else (1, 64)
    stage = weights + groups * planes * _up(box[0] * box[1] * pitch)
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


def _fetched(s: Shape, box: tuple[int, int]) -> tuple[int, int]:
    """What the copy engine walks over for a tile: it skips pixels itself where none is shared."""
    step = s.stride if s.point else 1
    return (box[0] - 1) * step + 1, (box[1] - 1) * step + 1


def _up(size: int) -> int:
    return -(-size // 1024) * 1024


def candidates(shape: Shape, order: Order, m: int, split: bool) -> list[Plan]:
    """Plans worth measuring: enough blocks to fill the device, K whole or staged in few chunks."""
    plans = []
    for tile in TILES:
        if tile.rows >= 2 * max(32, shape.rows):
            continue
        for cluster in (1, 2, 4, 8):
            top = (-(-order.stored // STEP // cluster) - 1).bit_length()
            for chunk_log in range(max(0, top - 1), top + 1):
                plan = make_plan(shape, order, m, split, tile, cluster, chunk_log)
                if plan is not None:
                    plans.append(plan)
    blocks = [p.grid[0] * p.grid[1] for p in plans]
    enough = min(100, max(blocks, default=0) // 2)
    return [p for p, n in zip(plans, blocks, strict=True) if enough <= n <= 1200]


class _Conv(ctypes.Structure):
    """struct Conv of latency/conv.cu, field by field."""

    _fields_ = [
        *((name, c_void_p) for name in ("weights", "scale", "bias", "residual", "out")),
        ("out_plane", c_longlong), ("out_scale", c_float), ("residual_scale", c_float),
        *((name, c_int) for name in (
            "rows", "row_blocks", "pixels", "out_width", "tiles", "span", "taps_h", "taps_w",
            "dilation_h", "dilation_w", "stride", "pad_y", "pad_x", "cut", "columns", "halo",
            "grid_stride", "sets", "run_log", "sub_shift", "chunks", "chunk_log", "stages",
            "cluster_log", "share", "inverse", "receive", "activation",
        )),
    ]  # fmt: skip


def _launch_of(layers: int) -> type[ctypes.Structure]:
    """struct Launch of latency/conv.cu for one layer or two."""
    size = layers * (ctypes.sizeof(TensorMap) + ctypes.sizeof(_Conv)) + ctypes.sizeof(c_int)
    fields = [
        ("map", TensorMap * layers), ("conv", _Conv * layers), ("blocks", c_int),
        ("pad", ctypes.c_byte * (-size % 64)),  # the driver reads as far as C aligns it
    ]  # fmt: skip
    return type("_Launch", (ctypes.Structure,), {"_fields_": fields})


_LAUNCHES = (_launch_of(1), _launch_of(2))


class Convolution:
    """One layer under one plan, ready to launch on planes of its input's order."""

    def __init__(
        self, shape: Shape, packed: Packed, m: int, plan: Plan, split: bool, activation: str,
        out_float: bool = False,
    ) -> None:  # fmt: skip
        self.plan, self.shape = plan, shape.flat()
        self.weights = packed.blocked(plan.tile.rows)
        self.scale, self.bias = packed.scale, packed.bias
        s, order = self.shape, packed.order
        sets, run = order.sets_for(m)
        sub = order.places.bit_length() - 1 if m > 2 else 3
        pixels, share = s.out_height * s.out_width, -(-plan.span // plan.cluster)
        self._arguments = _Conv(
            weights=self.weights.data_ptr(), scale=self.scale.data_ptr(),
            bias=self.bias.data_ptr(), out_plane=s.images * pixels * s.rows,
            rows=s.rows, row_blocks=plan.grid[0], pixels=pixels, out_width=s.out_width,
            tiles=-(-pixels // plan.span), span=plan.span, taps_h=s.taps[0], taps_w=s.taps[1],
            dilation_h=s.dilation[0], dilation_w=s.dilation[1], stride=s.stride,
            pad_y=s.padding[0], pad_x=s.padding[1],
            cut=int(is_cut(s, plan.span)), columns=plan.box[1],
            halo=plan.box[0] * plan.box[1], grid_stride=1 if s.point else s.stride,
            sets=sets, run_log=run.bit_length() - 1, sub_shift=min(3, sub),
            chunks=plan.chunks, chunk_log=plan.chunk_log, stages=plan.stages,
            cluster_log=plan.cluster.bit_length() - 1, share=share, inverse=65536 // share + 1,
            receive=plan.receive, activation=ACTIVATIONS[activation],
        )  # fmt: skip
        self._options = split, m, out_float

    @property
    def bytes(self) -> int:
        """Weights as stored for this plan, with scales and biases."""
        return sum(t.numel() * t.element_size() for t in (self.weights, self.scale, self.bias))

    def launch(self, x: Planes, out: Planes | Tensor, residual: Planes | None = None) -> None:
        """Queue the layer on torch's current stream; `out` is a float NHWC tensor if asked for."""
        _launch((self,), (self.arguments(x, out, residual),), x)

    def arguments(self, x: Planes, out: Planes | Tensor, residual: Planes | None) -> _Conv:
        """struct Conv of latency/conv.cu for these values."""
        a = self._arguments
        if isinstance(out, Planes):
            a.out, a.out_scale = out.data.data_ptr(), out.scale
        else:
            a.out = out.data_ptr()
        a.residual = None
        if residual is not None:
            a.residual, a.residual_scale = residual.data.data_ptr(), 1 / residual.scale
        return a

    def kernel(self, paired: bool) -> nvrtc.Kernel:
        """The kernel for this plan, for the layer alone or with another."""
        options = kernel_options(self.plan, *self._options, paired)
        return nvrtc.load("latency/conv.cu", options=options).kernel("conv")

    def map(self, x: Planes) -> TensorMap:
        """How the copy engine sees x: (channel, column, row, image, plane), boxes of one tile."""
        s, stored = self.shape, x.order.stored
        row, step = s.width * stored, s.stride if s.point else 1
        rows, columns = _fetched(s, self.plan.box)
        channels = 64 if self.plan.chunk_log else 32
        return maps.tiled(
            x.data, (stored, s.width, s.height, s.images, x.data.shape[0]),
            (stored, row, row * s.height, row * s.height * s.images),
            (channels, columns, rows, 1, 1), step=(1, step, step, 1, 1), swizzle=2 * channels,
        )  # fmt: skip


def launch_pair(
    first: Convolution, second: Convolution, x: Planes, outs: tuple[Planes, Planes]
) -> None:
    """Queue two layers that read x in one launch; tiles are equal, and K is in one block."""
    arguments = first.arguments(x, outs[0], None), second.arguments(x, outs[1], None)
    _launch((first, second), arguments, x)


def _launch(layers: Sequence[Convolution], arguments: Sequence[_Conv], x: Planes) -> None:
    blocks = [prod(layer.plan.grid) for layer in layers]
    count, plan = len(layers), layers[0].plan
    maps = (TensorMap * count)(*(layer.map(x) for layer in layers))
    launched = _LAUNCHES[count - 1](maps, (_Conv * count)(*arguments), blocks[0])
    layers[0].kernel(count > 1).launch(
        sum(blocks), plan.tile.threads, [launched], shared=max(c.plan.shared for c in layers),
        cluster=plan.cluster if plan.cluster > 1 else None, overlap=True,
    )  # fmt: skip


def kernel_options(
    plan: Plan, split: bool, m: int, out_float: bool, paired: bool = False
) -> tuple[str, ...]:
    """The -D options of latency/conv.cu."""
    names = ("MT", "NT", "WM", "WN", "WK", "BLOCKS")
    options = dict(zip(names, plan.tile, strict=True))
    options |= {"SPLIT": split, "MODE": min(m, 3) - 1}
    options |= {"CLUSTERED": plan.cluster > 1, "FLOAT_OUT": out_float}
    options |= {"PAIRED": paired}
    return tuple(f"-D{name}={int(value)}" for name, value in options.items())

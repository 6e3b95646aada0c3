"""`block-cutlass`: cutlass/block.cu by nvcc, a measured tile for each layer."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from ctypes import c_int
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from csbench.backends.block import joined
from csbench.backends.block.cutlass_tile import (
    PLACE_ROWS,
    SIMT,
    TENSOR,
    Tile,
    candidates,
    deepest,
)
from csbench.backends.block.gpu import block_of, to_tf32
from csbench.backends.block.measured import ACTIVATIONS, MeasuredLayer
from csbench.backends.dense.algorithms import TORCH_DTYPE
from csbench.core.case import Case
from csbench.graph.program import Conv
from csbench.kernels.cutlass import maps, nvcc
from csbench.kernels.driver import Argument, Kernel
from csbench.kernels.nvrtc import load_cubin
from csbench.sparse.formats import VALUE_BYTES, BlockPacked

ARCHITECTURE = "sm_90a"
# Of the copy engine, and of 32-bit positions.
MAX_STRIDE, MAX_REACH, MAX_POSITIONS = 8, 127, 2**31 - 512
MAX_CHANNELS = 2**16  # a block's first channel is half a word


def why_not(conv: Conv, case: Case) -> str | None:
    """The reason this layer cannot run on this kernel; None when it can."""
    rows, channels = block_of(conv)
    piece = 16 // VALUE_BYTES[case.dtype]
    taps = zip(conv.weight.shape[2:], conv.dilation, strict=True)
    reach = max(*conv.padding, *((k - 1) * d for k, d in taps))
    if conv.groups != 1:
        return f"the kernel takes no grouped convolutions; this layer has {conv.groups} groups"
    if conv.input_size[0] % piece:
        return (
            f"the copy engine takes {piece} channels at a time; this layer has {conv.input_size[0]}"
        )
    if conv.input_size[0] > MAX_CHANNELS:
        return (
            f"the kernel takes up to {MAX_CHANNELS} channels; this layer has {conv.input_size[0]}"
        )
    if max(conv.stride) > MAX_STRIDE or reach > MAX_REACH:
        return f"the copy engine takes strides to {MAX_STRIDE} and windows to {MAX_REACH} pixels"
    if case.batch * conv.output_size[1] * conv.output_size[2] > MAX_POSITIONS:
        return f"the kernel counts pixels in 31 bits; batch {case.batch} has more"
    if rows not in _widths(case.dtype) or not deepest(channels, case.dtype):
        return f"the kernel takes no blocks of {rows}x{channels} in {case.dtype}"
    return None


class Weights(NamedTuple):
    """Blocks of one shape as the kernel reads them, on the device."""

    values: Tensor
    blocks: Tensor  # per kept block its first channel and its tap
    row_offsets: Tensor
    kept: int  # blocks of every row; 0 where rows differ


class CutlassLayer(MeasuredLayer):
    """A layer's weights in every block shape that its tiles want, and how to launch them."""

    kernel = "CUTLASS"
    why_not = staticmethod(why_not)

    def __init__(self, conv: Conv, case: Case) -> None:
        super().__init__(conv, case)
        self.conv, self.precision, self.device = conv, case.dtype, case.device
        width = VALUE_BYTES[case.dtype]
        rows, _ = block_of(conv)
        limit = (max(_widths(case.dtype)), 128 // width)
        most, self.channels = joined.largest(conv.weight, block_of(conv), limit)
        row_widths = tuple(w for w in _widths(case.dtype) if rows <= w <= most)
        padded = torch.zeros(-(-conv.output_size[0] // most) * most)
        padded[: len(conv.bias)] = conv.bias
        self.bias = padded.to(case.device)
        self.window = maps.Window(
            (conv.weight.shape[2], conv.weight.shape[3]), conv.stride, conv.padding, conv.dilation
        )
        kept = int(BlockPacked.pack(conv.weight, (rows, self.channels)).row_offsets.diff().max())
        found = candidates(
            row_widths, self.channels, case.dtype,
            outputs=conv.output_size[0], kept=kept, positions=self.positions,
        )  # fmt: skip
        self.tiles = {str(tile): tile for tile in found}
        self.kept = kept
        self.signature = (
            rows, most, self.channels, case.dtype, conv.input_size, conv.output_size, self.window,
            conv.activation, conv.residual, kept,
        )  # fmt: skip
        self._weights: dict[int, Weights] = {}

    @staticmethod
    def digest() -> str:
        return nvcc.digest("block.cu") + nvcc.digest("persistent.cu")

    @staticmethod
    def compile_all(tiles: Iterable[Tile]) -> None:
        nvcc.compile_all(((tile.source, tile.options) for tile in tiles), ARCHITECTURE)

    @property
    def bytes(self) -> int:
        """Values and indices of the first tile's block shape: the chosen one's, once settled."""
        *held, _ = self._packed(next(iter(self.tiles.values())))
        return sum(t.numel() * t.element_size() for t in held)

    def settle(self, name: str) -> None:
        super().settle(name)
        rows = self.tiles[name].rows
        self._weights = {r: w for r, w in self._weights.items() if r == rows}

    def launch(self, tile: Tile, x: Tensor, residual: Tensor | None, y: Tensor) -> None:
        conv = self.conv
        *weights, kept = self._packed(tile)
        positions = x.shape[0] * self.output_size[1] * self.output_size[2]
        slices, rows = self.channels // tile.depth, -(-self.output_size[0] // tile.rows)
        stages = tile.stages
        if not tile.persistent:
            stages = max(1, min(stages, -(-self.kept * slices // tile.cluster)))
        shape = _Convolution(
            positions, rows, slices, stages, kept, *self.output_size, *conv.stride, *conv.padding,
            ACTIVATIONS[conv.activation], self.window.is_pixel,
        )  # fmt: skip
        arguments: list[Argument]
        if tile.persistent:
            result = self._lines(tile, y, PLACE_ROWS)
            added = result if residual is None else self._lines(tile, residual, PLACE_ROWS)
            arguments = [added, result, *weights, self.bias, int(residual is not None)]
        else:
            arguments = [*weights, self.bias, residual, y]
        _kernel(tile.source, tile.options, x.device.index).launch(
            tile.grid(rows, positions), tile.threads, [self._view(tile, x), *arguments, shape],
            shared=tile.shared_bytes(stages), overlap=True,
            cluster=tile.cluster if tile.cluster > 1 else None,
        )  # fmt: skip

    def _view(self, tile: Tile, x: Tensor) -> maps.TensorMap:
        """What a step of the tile reads of x."""
        if self.window.is_pixel:
            return self._lines(tile, x, tile.depth)
        n, c, h, w = x.shape
        return maps.windows(
            x, self.precision, (n, h, w, c), self.window, channels=tile.depth, pixels=tile.pixels
        )

    def _lines(self, tile: Tile, t: Tensor, channels: int) -> maps.TensorMap:
        """So many channels of a tile's pixels, or of as many of them as a box holds."""
        n, c, h, w = t.shape
        pixels = min(tile.pixels, maps.MOST_LINES)
        return maps.lines(t, self.precision, n * h * w, c, channels=channels, pixels=pixels)

    def _packed(self, tile: Tile) -> Weights:
        if tile.rows not in self._weights:
            self._weights[tile.rows] = pack(
                self.conv, (tile.rows, self.channels), self.precision, self.device
            )
        return self._weights[tile.rows]


def pack(conv: Conv, block: tuple[int, int], precision: str, device: str) -> Weights:
    """The kept blocks; in fp32 channels before rows, else rows of a step as wgmma reads them."""
    packed = BlockPacked.pack(conv.weight, block)
    values = packed.values
    if precision == "fp32":
        values = values.transpose(1, 2).contiguous()
    else:
        depth = deepest(block[1], precision)
        values = to_tf32(values) if precision == "tf32" else values
        slices = block[1] // depth
        values = values.reshape(len(values), block[0], slices, depth).transpose(1, 2)
        values = swizzled(values, 16 // VALUE_BYTES[precision])
    counts = packed.row_offsets.diff()
    return Weights(
        values.to(device, TORCH_DTYPE[precision]),
        entries(conv, packed).to(device),
        packed.row_offsets.to(device),
        int(counts[0]) if bool((counts == counts[0]).all()) else 0,
    )


def swizzled(values: Tensor, piece: int) -> Tensor:
    """Lines [..., rows, depth] with their pieces of 16 bytes where the copy engine would put them.

    A line of 128 bytes has its eight pieces permuted by its number modulo 8, shorter ones alike.
    """
    rows, count = values.shape[-2], values.shape[-1] // piece
    pieces = values.reshape(*values.shape[:-1], count, piece)
    turn = torch.arange(rows)[:, None] * count // 8 % count
    place = torch.arange(count)[None, :] ^ turn
    return pieces.gather(-2, place[..., None].expand(pieces.shape)).flatten(-2).contiguous()


def entries(conv: Conv, packed: BlockPacked) -> Tensor:
    """Per kept block its first input channel | offset of its tap across << 16 | and down << 24."""
    kernel_width, channels = conv.weight.shape[3], packed.block[1]
    per_tap = -(-conv.weight.shape[1] // channels)
    tap, channel = packed.columns // per_tap, packed.columns % per_tap * channels
    across, down = tap % kernel_width * conv.dilation[1], tap // kernel_width * conv.dilation[0]
    return (channel | across << 16 | down << 24).to(torch.int32)


class _Convolution(ctypes.Structure):
    _fields_ = [
        (name, c_int) for name in (
            "positions", "rows", "slices", "stages", "kept", "out_channels", "out_height",
            "out_width", "stride_h", "stride_w", "padding_h", "padding_w", "activation",
            "pointwise",
        )
    ]  # fmt: skip


def _widths(precision: str) -> tuple[int, ...]:
    """Output channels that a row may have."""
    return tuple(SIMT if precision == "fp32" else TENSOR)


@cache
def _kernel(source: str, options: tuple[str, ...], device: int) -> Kernel:
    cubin = nvcc.compile_cubin(source, options, ARCHITECTURE)
    return load_cubin(cubin, device).kernel("block_convolution")

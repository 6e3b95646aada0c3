"""Launches of the wgmma kernels on packed activations.

A packed activation is a tensor [N, H, W, planes * padded channels] of fp16 or bf16; with two
planes every 64 channels are 64 high halves and then 64 low ones, and a number is their sum over
the activation's scale. Channels stand as they come unless `pack` is given another order. Work
goes to torch's current stream.
"""

from __future__ import annotations

import ctypes
import functools
from ctypes import c_float, c_int, c_longlong
from typing import NamedTuple

import torch
from torch import Tensor

from csbench.kernels import nvrtc
from csbench.kernels.wgmma import maps
from csbench.kernels.wgmma.pack import BLOCK, padded
from csbench.kernels.wgmma.tile import Kind, Tile, kernel

Pair = tuple[int, int]
PLAIN = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_IO_PIXELS = 32  # of one block of `pack` and `unpack`


class Geometry(NamedTuple):
    """A convolution without its weights; pairs are (vertical, horizontal)."""

    cin: int
    cout: int
    size: Pair
    out_size: Pair
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair

    @property
    def is_product(self) -> bool:
        """Whether every output pixel reads the one input pixel at its place."""
        return self.kernel == (1, 1) and self.stride == (1, 1) and self.padding == (0, 0)


class _ConvShape(ctypes.Structure):
    _fields_ = [
        *((name, c_int) for name in (
            "pixels", "width", "height", "stride_w", "stride_h", "pad_w", "pad_h", "dilation_w",
            "dilation_h", "kernel_w", "channel_blocks", "k_steps", "m_tiles", "tiles", "pointwise",
            "relu", "residual",
        )),
        ("residual_scale", c_float),
    ]  # fmt: skip


def convolve(
    kind: Kind, tile: Tile, geometry: Geometry, x: Tensor, weights: Tensor, scale: Tensor,
    bias: Tensor, *, relu: bool, residual: Tensor | None = None, residual_scale: float = 1.0,
) -> Tensor:  # fmt: skip
    """act(scale * (W x) + bias + residual_scale * residual), all packed; scale and bias by row."""
    g, images = geometry, x.shape[0]
    out = torch.empty(
        images, *g.out_size, kind.planes * padded(g.cout), dtype=x.dtype, device=x.device
    )
    pixels, columns = images * g.out_size[0] * g.out_size[1], x.shape[3]
    if g.is_product:
        reads = maps.rows(x, columns, pixels, tile.pixels)
    else:
        reads = maps.windows(x, g.kernel, g.stride, g.padding, g.dilation, tile.pixels)
    writes = maps.rows(out, out.shape[3], pixels, tile.chunk)
    adds = writes if residual is None else maps.rows(residual, out.shape[3], pixels, tile.chunk)
    m_tiles, steps = padded(g.cout) // tile.rows, padded(g.cin) // BLOCK
    tiles = m_tiles * -(-pixels // tile.pixels)
    shape = _ConvShape(
        pixels, g.out_size[1], g.out_size[0], g.stride[1], g.stride[0], g.padding[1], g.padding[0],
        g.dilation[1], g.dilation[0], g.kernel[1], steps, steps * g.kernel[0] * g.kernel[1],
        m_tiles, tiles, g.is_product, relu, residual is not None, residual_scale,
    )  # fmt: skip
    grid = min(tiles, tile.blocks * processors(x.device.index))
    kernel(kind, tile).launch(
        grid, tile.threads, [reads, writes, adds, weights, scale, bias, shape],
        shared=tile.shared(kind), overlap=True,
    )  # fmt: skip
    return out


@functools.cache
def processors(device: int) -> int:
    """Multiprocessors of a device."""
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


class _Image(ctypes.Structure):
    _fields_ = [
        *((name, c_longlong) for name in ("n", "c", "h", "w")),
        *((name, c_int) for name in ("images", "channels", "height", "width")),
    ]


def _image(x: Tensor) -> _Image:
    return _Image(*x.stride(), *x.shape)


def pack(x: Tensor, kind: Kind, gain: Tensor, order: Tensor | None = None) -> Tensor:
    """gain * x (NCHW of any strides, float32, float16 or bfloat16) as a packed activation.

    `order` of `places` is where its channels go.
    """
    n, c, h, w = x.shape
    out = empty(kind, n, h, w, c, x.device)
    grid = (-(-n * h * w // _IO_PIXELS), padded(c) // BLOCK)
    order = _natural(c, x.device) if order is None else order
    arguments = [x, out, order, gain, _image(x)]
    _io_kernel("pack", kind, x.dtype).launch(grid, 256, arguments, overlap=True)
    return out


def unpack(packed: Tensor, channels: int, kind: Kind, gain: Tensor, like: torch.dtype) -> Tensor:
    """The activation divided by gain, as a contiguous NCHW tensor."""
    n, h, w, _ = packed.shape
    out = torch.empty(n, channels, h, w, dtype=like, device=packed.device)
    grid = (-(-n * h * w // _IO_PIXELS), padded(channels) // BLOCK)
    arguments = [packed, out, _natural(channels, packed.device), gain, _image(out)]
    _io_kernel("unpack", kind, like).launch(grid, 256, arguments, overlap=True)
    return out


def empty(kind: Kind, n: int, h: int, w: int, c: int, device: torch.device) -> Tensor:
    """Room for a packed activation."""
    dtype = torch.bfloat16 if kind.bf16 else torch.float16
    return torch.empty(n, h, w, kind.planes * padded(c), dtype=dtype, device=device)


def places(order: Tensor, device: torch.device | str) -> Tensor:
    """An order of channels for `pack`: the channel at each place, -1 where it is padding."""
    padding = padded(len(order)) - len(order)
    return torch.nn.functional.pad(order, (0, padding), value=-1).int().to(device)


@functools.cache
def _natural(channels: int, device: torch.device) -> Tensor:
    return places(torch.arange(channels), device)


def _io_kernel(name: str, kind: Kind, plain: torch.dtype) -> nvrtc.Kernel:
    options = (f"-DCS_BF16={int(kind.bf16)}", f"-DCS_PLANES={kind.planes}",
               f"-DCS_PLAIN={PLAIN[plain]}")  # fmt: skip
    return nvrtc.load("wgmma/io.cu", options=options).kernel(name)


class _Pool(ctypes.Structure):
    _fields_ = [
        (name, c_int) for name in (
            "width", "height", "out_width", "out_height", "kernel", "stride", "pad", "blocks",
            "words",
        )
    ]  # fmt: skip


class Window(NamedTuple):
    """A square pooling window."""

    kernel: int
    stride: int
    padding: int

    def output(self, size: int) -> int:
        return (size + 2 * self.padding - self.kernel) // self.stride + 1


def max_pool(x: Tensor, window: Window, kind: Kind) -> Tensor:
    """The largest of every window, on a packed activation."""
    n, h, w, columns = x.shape
    blocks = columns // kind.planes // BLOCK
    out = x.new_empty(n, window.output(h), window.output(w), columns)
    words = out.numel() // kind.planes // 2
    shape = _Pool(w, h, out.shape[2], out.shape[1], *window, blocks, words)
    _io_kernel("max_pool", kind, torch.float32).launch(
        -(-words // 256), 256, [x, out, shape], overlap=True
    )
    return out


def average_pool(x: Tensor, kind: Kind) -> Tensor:
    """The mean over all pixels: [N, H, W, ...] to [N, 1, 1, ...]."""
    n, h, w, columns = x.shape
    out = x.new_empty(n, 1, 1, columns)
    blocks = columns // kind.planes // BLOCK
    _io_kernel("average_pool", kind, torch.float32).launch(
        (blocks, n), 256, [x, out, h * w, blocks], overlap=True
    )
    return out

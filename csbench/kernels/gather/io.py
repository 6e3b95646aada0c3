"""Conversions of activations (gather/io.cu) and windows over pixels (gather/window.cu)."""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_longlong
from math import prod

import torch
from torch import Tensor

from csbench.kernels import nvrtc
from csbench.kernels.gather.geometry import Pair
from csbench.kernels.gather.layout import EIGHT, WIDE, Activation, Layout, Unfolding
from csbench.kernels.wgmma.pack import padded

_PLAIN = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_IMAGES, _WIDTH = 0, 3  # dimensions
_TILE = 32  # elements along both sides


class _Tiling(ctypes.Structure):
    """struct Tiling of gather/io.cu."""

    _fields_ = [
        ("size", c_int * 3), ("plain_inner", c_int), ("piece", c_int), ("piece_step", c_longlong),
        ("plain_step", c_longlong * 4), ("columns_step", c_longlong * 4), ("plane", c_longlong),
    ]  # fmt: skip


def _tiling(plain: Tensor, columns: Activation) -> tuple[_Tiling, int]:
    """Tiles along the columns' contiguous dimension and the plain tensor's, and their number."""
    layout = columns.layout
    inner = _IMAGES if layout.along_images else _WIDTH
    sizes, steps = tuple(plain.shape), plain.stride()
    fast = min((d for d in range(4) if sizes[d] > 1), key=lambda d: steps[d], default=inner)
    others = [d for d in range(4) if d != inner]
    other = fast if fast != inner else max(others, key=lambda d: sizes[d])
    order = (inner, other, *(d for d in others if d != other))
    places = layout.strides(columns.channels)  # from its third number on, of dimensions
    tiling = _Tiling(
        tuple(sizes[d] for d in order[:3]), fast == inner, places.inner, places.image_block,
        tuple(steps[d] for d in order), tuple(places[2 + d] for d in order), columns.plane,
    )  # fmt: skip
    tiles = prod(-(-sizes[d] // _TILE) for d in (inner, other))
    return tiling, tiles * prod(sizes[d] for d in order[2:])


def pack(x: Tensor, planes: int, bf16: bool, gain: Tensor) -> Activation:
    """gain * x (NCHW of any strides; float32, float16 or bfloat16) as an activation."""
    n, c, h, w = x.shape
    dtype = torch.bfloat16 if bf16 else torch.float16
    out = Activation.empty(planes, dtype, c, Layout(n, h, w), x.device)
    tiling, tiles = _tiling(x, out)
    _io(out, x.dtype, "pack").launch(tiles, 256, [x, out.data, gain, tiling], overlap=True)
    return out


def unpack(x: Activation, gain: Tensor, like: torch.dtype) -> Tensor:
    """The activation divided by gain, as a contiguous NCHW tensor."""
    n, h, w = x.layout
    out = torch.empty(n, x.channels, h, w, dtype=like, device=x.data.device)
    tiling, tiles = _tiling(out, x)
    _io(x, like, "unpack").launch(tiles, 256, [x.data, out, gain, tiling], overlap=True)
    return out


class _FromPacked(ctypes.Structure):
    _fields_ = [
        (name, c_int) for name in (
            "inner_tiles", "inner_size", "second_size", "along_images", "height", "width",
            "channels", "blocks",
        )
    ]  # fmt: skip


def from_packed(x: Tensor, channels: int, planes: int) -> Activation:
    """An activation from the packed NHWC form of csbench.kernels.wgmma, bit by bit."""
    n, h, w, _ = x.shape
    out = Activation.empty(planes, x.dtype, channels, Layout(n, h, w), x.device)
    inner, second, third = (n, w, h) if out.layout.along_images else (w, h, n)
    tiles, blocks = -(-inner // WIDE), padded(channels) // WIDE
    arguments = _FromPacked(tiles, inner, second, out.layout.along_images, h, w, channels, blocks)
    grid = tiles * second * third * blocks * planes
    _io(out, torch.float32, "from_packed").launch(
        grid, 256, [x, out.data, out.places, arguments], overlap=True
    )
    return out


class _Unfold(ctypes.Structure):
    _fields_ = [
        (name, c_int) for name in (
            "width", "pitch", "out_width", "out_pitch", "taps", "stride", "padding", "dilation",
            "eights", "plane_from", "plane_to",
        )
    ]  # fmt: skip


def unfold(x: Activation, u: Unfolding) -> Activation:
    """The columns under every horizontal tap of a convolution, where pixels are neighbours.

    The result has the layout's sizes of x, but its lines are [taps, output width].
    """
    layout = x.layout
    room = x.room_for(u)
    size = room.shape[1]
    arguments = _Unfold(
        layout.width, layout.pitch, u.out_width, u.pitch, u.taps, u.stride, u.padding, u.dilation,
        size // EIGHT, x.plane, size,
    )  # fmt: skip
    _io(x, torch.float32, "unfold").launch(
        -(-size // EIGHT // 256), 256, [x.data, room, arguments], overlap=True
    )
    return Activation(room, x.channels, layout)


class _Window(ctypes.Structure):
    _fields_ = [
        *((name, c_int) for name in (
            "images", "channels", "height", "width", "out_height", "out_width",
        )),
        *((name, c_int * 2) for name in ("kernel", "stride", "padding", "dilation")),
        ("threads", c_longlong),
    ]  # fmt: skip


def max_pool(
    x: Activation, kernel: Pair, stride: Pair, padding: Pair, out_size: Pair
) -> Activation:
    """The largest number of every window."""
    out = x.like(x.channels, Layout(x.layout.images, *out_size))
    window = _window(x, out, kernel, stride, padding, (1, 1))
    arguments = [x.data, out.data, x.places, out.places, window]
    _windows(x, "max_pool").launch(-(-window.threads // 256), 256, arguments, overlap=True)
    return out


def mean_pool(x: Activation) -> Activation:
    """The mean over all pixels, as an image of one."""
    out = x.like(x.channels, Layout(x.layout.images, 1, 1))
    window = _window(x, out, (1, 1), (1, 1), (0, 0), (1, 1))
    lanes = 8 if x.layout.along_images else 32
    block = 128  # an image or eight give few items: all processors should have some
    _windows(x, "mean_pool").launch(
        -(-window.threads * lanes // block), block,
        [x.data, out.data, x.places, out.places, window], overlap=True,
    )  # fmt: skip
    return out


def depthwise(
    x: Activation, weights: Tensor, bias: Tensor, scale: float, activation: int, limit: float,
    stride: Pair, padding: Pair, dilation: Pair, out_size: Pair,
) -> Activation:  # fmt: skip
    """act(scale * (every channel with its own window of weights [C, 1, kh, kw]) + bias)."""
    out = x.like(x.channels, Layout(x.layout.images, *out_size))
    kernel = (weights.shape[2], weights.shape[3])
    window = _window(x, out, kernel, stride, padding, dilation)
    _windows(x, "depthwise").launch(
        -(-window.threads // 256), 256,
        [x.data, out.data, weights, bias, scale, activation, limit, x.places, out.places, window],
        overlap=True,
    )  # fmt: skip
    return out


def _window(
    x: Activation, out: Activation, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> _Window:
    images, height, width = out.layout
    vectors = -(-images // EIGHT) if x.layout.along_images else images
    return _Window(
        images, x.channels, x.layout.height, x.layout.width, height, width, kernel, stride,
        padding, dilation, vectors * x.channels * height * width,
    )  # fmt: skip


def _numbers(x: Activation) -> tuple[str, str]:
    bf16 = x.data.dtype == torch.bfloat16
    return f"-DCS_BF16={int(bf16)}", f"-DGATHER_PLANES={len(x.data)}"


def _io(x: Activation, plain: torch.dtype, name: str) -> nvrtc.Kernel:
    options = (*_numbers(x), f"-DGATHER_PLAIN={_PLAIN[plain]}")
    return nvrtc.load("gather/io.cu", options=options).kernel(name)


def _windows(x: Activation, name: str) -> nvrtc.Kernel:
    vector = EIGHT if x.layout.along_images else 1
    options = (*_numbers(x), f"-DGATHER_VECTOR={vector}")
    return nvrtc.load("gather/window.cu", options=options).kernel(name)

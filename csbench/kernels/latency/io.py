"""Planes, the activation layout of the latency kernels, and what is done to them."""

from __future__ import annotations

import ctypes
import functools
from ctypes import c_float, c_int, c_longlong, c_void_p
from dataclasses import dataclass

import torch
from torch import Tensor

from csbench.kernels import nvrtc
from csbench.kernels.latency.pack import Order


@dataclass(frozen=True, eq=False)
class Planes:
    """NHWC halves `[1 or 2, images, height, width, order.stored]`; two planes: the fp32 class.

    The halves are of the values times `scale`, a power of two; padding channels are zero.
    """

    data: Tensor
    order: Order
    scale: float = 1.0

    @classmethod
    def empty(
        cls, split: bool, images: int, height: int, width: int, order: Order, scale: float = 1.0,
        device: torch.device | str = "cuda",
    ) -> Planes:  # fmt: skip
        """Room for activations; nothing is written."""
        shape = (2 if split else 1, images, height, width, order.stored)
        return cls(torch.empty(shape, dtype=torch.half, device=device), order, scale)

    @property
    def split(self) -> bool:
        return self.data.shape[0] == 2

    @property
    def size(self) -> tuple[int, int, int]:
        """Images, height, width."""
        _, n, h, w, _ = self.data.shape
        return n, h, w


@dataclass(frozen=True)
class Window:
    """A window over pixels: size, step and padding before the first pixel, each (y, x)."""

    size: tuple[int, int] = (1, 1)
    step: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)


class _Pack(ctypes.Structure):
    _fields_ = [
        ("x", c_void_p), ("out", c_void_p), ("source", c_void_p),
        *((n, c_longlong) for n in
          ("plane", "image_step", "channel_step", "row_step", "column_step")),
        ("scale", c_float),
        *((n, c_int) for n in (
            "half", "images", "channels", "height", "width", "window_y", "window_x", "step",
            "origin_x", "out_height", "out_width", "stride", "octet_fast",
        )),
    ]  # fmt: skip


class _Pool(ctypes.Structure):
    _fields_ = [
        ("x", c_void_p), ("out", c_void_p), ("plane", c_longlong), ("out_plane", c_longlong),
        *((n, c_int) for n in (
            "images", "height", "width", "stride", "out_height", "out_width", "window_y",
            "window_x", "step_y", "step_x", "pad_y", "pad_x",
        )),
    ]  # fmt: skip


class _Unpack(ctypes.Structure):
    _fields_ = [
        ("x", c_void_p), ("out", c_void_p), ("place", c_void_p), ("plane", c_longlong),
        ("unscale", c_float), ("pixels", c_int), ("channels", c_int), ("stride", c_int),
    ]  # fmt: skip


def pack(
    x: Tensor, split: bool, order: Order, scale: float = 1.0, window: tuple[int, int] = (1, 1),
    step: int = 1, origin_x: int = 0,
) -> Planes:  # fmt: skip
    """NCHW of any strides, float32 or float16, to planes.

    Output pixel (y, x) takes the `window` (height, width) of input pixels from (y * step,
    x * step + origin_x) on, ordered (dy, dx, channel) as the channels that `order` counts.
    """
    n, c, h, w = x.shape
    size = (-(-h // step), -(-(w - origin_x) // step))
    out = Planes.empty(split, n, *size, order, scale, x.device)
    steps = x.stride()
    arguments = _Pack(
        x=x.data_ptr(), out=out.data.data_ptr(), source=_source(order, x.device).data_ptr(),
        plane=out.data[0].numel(), image_step=steps[0], channel_step=steps[1], row_step=steps[2],
        column_step=steps[3], scale=scale, half=int(x.dtype == torch.half), images=n, channels=c,
        height=h, width=w, window_y=window[0], window_x=window[1], step=step, origin_x=origin_x,
        out_height=out.data.shape[2], out_width=out.data.shape[3], stride=order.stored,
        octet_fast=int(steps[1] == 1 and c > 1),
    )  # fmt: skip
    _launch("pack", split, out.data[0].numel() // 8, arguments)
    return out


def unpack(x: Planes) -> Tensor:
    """Planes to float32, logically NCHW and channels_last in memory."""
    n, h, w = x.size
    channels = x.order.channels
    out = torch.empty((n, h, w, channels), device=x.data.device)
    arguments = _Unpack(
        x=x.data.data_ptr(), out=out.data_ptr(), place=_place(x.order, x.data.device).data_ptr(),
        plane=x.data[0].numel(), unscale=1 / x.scale, pixels=n * h * w, channels=channels,
        stride=x.order.stored,
    )  # fmt: skip
    _launch("unpack", x.split, out.numel(), arguments)
    return out.permute(0, 3, 1, 2)


def max_pool(x: Planes, window: Window, height: int, width: int) -> Planes:
    """Maximum over each window; `height` and `width` are the output's."""
    out = Planes.empty(x.split, x.size[0], height, width, x.order, x.scale, x.data.device)
    _launch("max_pool", x.split, out.data[0].numel() // 4, _pool(x, out, window))
    return out


def mean_pool(x: Planes) -> Planes:
    """Mean over all pixels of each image: `[images, 1, 1, channels]`."""
    out = Planes.empty(x.split, x.size[0], 1, 1, x.order, x.scale, x.data.device)
    grid = (-(-x.order.stored // 32), x.size[0])
    _kernel("mean_pool", x.split).launch(grid, 256, [_pool(x, out, Window())], overlap=True)
    return out


def _pool(x: Planes, out: Planes, window: Window) -> _Pool:
    n, h, w = x.size
    return _Pool(
        x=x.data.data_ptr(), out=out.data.data_ptr(), plane=x.data[0].numel(),
        out_plane=out.data[0].numel(), images=n, height=h, width=w, stride=x.order.stored,
        out_height=out.size[1], out_width=out.size[2],
        window_y=window.size[0], window_x=window.size[1], step_y=window.step[0],
        step_x=window.step[1], pad_y=window.padding[0], pad_x=window.padding[1],
    )  # fmt: skip


@functools.cache
def _source(order: Order, device: torch.device) -> Tensor:
    return order.channel.int().to(device)


@functools.cache
def _place(order: Order, device: torch.device) -> Tensor:
    return order.place.int().to(device)


def _kernel(name: str, split: bool) -> nvrtc.Kernel:
    options = (f"-DSPLIT={int(split)}",)
    return nvrtc.load("latency/io.cu", options=options).kernel(name)


def _launch(name: str, split: bool, threads: int, arguments: ctypes.Structure) -> None:
    _kernel(name, split).launch(-(-threads // 128), 128, [arguments], overlap=True)

"""How the copy engine sees the activations of a convolution (cuTensorMapEncode*)."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_int, c_uint32, c_uint64, c_void_p
from typing import NamedTuple

from torch import Tensor

from csbench.errors import BackendError
from csbench.kernels.driver import driver
from csbench.kernels.wgmma.maps import TensorMap

__all__ = ["TensorMap", "Window", "lines", "windows"]

# CUtensorMapDataType by precision. tf32 numbers are rounded on their way to shared memory, which
# tensor cores would truncate.
TYPES = {"fp32": 7, "tf32": 11, "fp16": 6, "bf16": 9}
_SWIZZLES = {32: 1, 64: 2, 128: 3}  # CUtensorMapSwizzle by the bytes of a row
_PROMOTE_256B = 3

Pair = tuple[int, int]


class Window(NamedTuple):
    """A convolution's geometry; pairs are (vertical, horizontal)."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair

    @property
    def is_pixel(self) -> bool:
        """Whether every output pixel reads the one input pixel at its place."""
        return self.kernel == (1, 1) and self.stride == (1, 1) and self.padding == (0, 0)


def windows(
    image: Tensor, precision: str, size: tuple[int, int, int, int], window: Window, *,
    channels: int, pixels: int,
) -> TensorMap:  # fmt: skip
    """Boxes of `pixels` consecutive output pixels x `channels` at one tap of a window.

    `image` is channels last in memory; `size` is (N, H, W, C). Outside of it there are zeros.
    """
    n, h, w, c = size
    width = image.element_size()
    pairs = zip(window.padding, window.kernel, window.dilation, strict=True)
    high, wide = (p - (k - 1) * d for p, k, d in pairs)
    found = _aligned()
    code = driver().cuTensorMapEncodeIm2col(
        byref(found), TYPES[precision], 4, c_void_p(image.data_ptr()),
        (c_uint64 * 4)(c, w, h, n),
        (c_uint64 * 3)(c * width, w * c * width, h * w * c * width),
        (c_int * 2)(-window.padding[1], -window.padding[0]), (c_int * 2)(wide, high),
        channels, pixels, (c_uint32 * 4)(1, window.stride[1], window.stride[0], 1),
        0, _SWIZZLES[channels * width], _PROMOTE_256B, 0,
    )  # fmt: skip
    _check(code, f"{window} on an image {size}")
    return found


def lines(
    image: Tensor, precision: str, count: int, columns: int, *, channels: int, pixels: int
) -> TensorMap:
    """Boxes of `pixels` lines x `channels` of a matrix [count, columns]; zeros outside of it."""
    width = image.element_size()
    found = _aligned()
    code = driver().cuTensorMapEncodeTiled(
        byref(found), TYPES[precision], 2, c_void_p(image.data_ptr()),
        (c_uint64 * 2)(columns, count), (c_uint64 * 1)(columns * width),
        (c_uint32 * 2)(channels, pixels), (c_uint32 * 2)(1, 1),
        0, _SWIZZLES[channels * width], _PROMOTE_256B, 0,
    )  # fmt: skip
    _check(code, f"a matrix {count} x {columns} in boxes of {pixels} x {channels}")
    return found


def _aligned() -> TensorMap:
    """A tensor map at an address that is a multiple of 64, as the driver demands."""
    buffer = (ctypes.c_ubyte * (128 + 63))()
    return TensorMap.from_buffer(buffer, -ctypes.addressof(buffer) % 64)


def _check(code: int, what: str) -> None:
    if code:
        raise BackendError(f"the CUDA driver refused a tensor map of {what} (error {code})")

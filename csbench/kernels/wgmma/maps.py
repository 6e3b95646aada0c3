"""Tensor maps: how Hopper's copy engine sees an activation tensor (cuTensorMapEncode*)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import byref, c_int, c_uint32, c_uint64, c_void_p

import torch
from torch import Tensor

from csbench.errors import BackendError
from csbench.kernels import nvrtc

# From cuda.h.
_TYPES = {torch.float16: 6, torch.bfloat16: 9}
_SWIZZLE_128B, _PROMOTE_256B = 3, 3
_COLUMNS = 64  # 16-bit numbers in the 128 bytes that the swizzle works on


class TensorMap(ctypes.Structure):
    """CUtensorMap: 128 opaque bytes, passed to kernels by value."""

    _fields_ = [("bytes", ctypes.c_ubyte * 128)]


def rows(tensor: Tensor, columns: int, count: int, box: int) -> TensorMap:
    """Boxes of `box` rows x 64 columns of a matrix [count, columns]; zero outside."""
    found = _aligned()
    _check(
        nvrtc.driver().cuTensorMapEncodeTiled(
            byref(found), _TYPES[tensor.dtype], 2, c_void_p(tensor.data_ptr()),
            (c_uint64 * 2)(columns, count), (c_uint64 * 1)(columns * 2),
            (c_uint32 * 2)(_COLUMNS, box), (c_uint32 * 2)(1, 1), 0, _SWIZZLE_128B, _PROMOTE_256B, 0,
        ),
        f"a matrix of {count} x {columns} in boxes of {box} rows",
    )  # fmt: skip
    return found


def boxes(image: Tensor, width: int, height: int) -> TensorMap:
    """Boxes of width x height pixels x 64 columns of one image of [N, H, W, columns]."""
    found = _aligned()
    n, h, w, columns = image.shape
    _check(
        nvrtc.driver().cuTensorMapEncodeTiled(
            byref(found), _TYPES[image.dtype], 4, c_void_p(image.data_ptr()),
            (c_uint64 * 4)(columns, w, h, n),
            (c_uint64 * 3)(columns * 2, w * columns * 2, h * w * columns * 2),
            (c_uint32 * 4)(_COLUMNS, width, height, 1), (c_uint32 * 4)(1, 1, 1, 1),
            0, _SWIZZLE_128B, _PROMOTE_256B, 0,
        ),
        f"boxes of {height} x {width} pixels of an image {tuple(image.shape)}",
    )  # fmt: skip
    return found


def windows(
    tensor: Tensor, size: Sequence[int], kernel: Sequence[int], stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], box: int,
) -> TensorMap:  # fmt: skip
    """`box` consecutive output pixels x 64 columns of an image [N, H, W, columns] at one tap.

    `size` is (N, H, W, columns); kernel, stride, padding and dilation are (vertical, horizontal).
    """
    found = _aligned()
    n, h, w, columns = size
    corners = [
        ((c_int * 2)(*(-p for p in reversed(padding)))),
        (c_int * 2)(
            *(p - (k - 1) * d for p, k, d in zip(
                reversed(padding), reversed(kernel), reversed(dilation), strict=True
            ))
        ),
    ]  # fmt: skip
    _check(
        nvrtc.driver().cuTensorMapEncodeIm2col(
            byref(found), _TYPES[tensor.dtype], 4, c_void_p(tensor.data_ptr()),
            (c_uint64 * 4)(columns, w, h, n),
            (c_uint64 * 3)(columns * 2, w * columns * 2, h * w * columns * 2),
            *corners, _COLUMNS, box, (c_uint32 * 4)(1, stride[1], stride[0], 1),
            0, _SWIZZLE_128B, _PROMOTE_256B, 0,
        ),
        f"windows of {tuple(kernel)} over an image {tuple(size)}",
    )  # fmt: skip
    return found


def _aligned() -> TensorMap:
    """A tensor map at an address that is a multiple of 64, as the driver demands."""
    buffer = (ctypes.c_ubyte * (128 + 63))()
    return TensorMap.from_buffer(buffer, -ctypes.addressof(buffer) % 64)


def _check(code: int, what: str) -> None:
    if code:
        raise BackendError(f"the CUDA driver refused a tensor map of {what} (error {code})")

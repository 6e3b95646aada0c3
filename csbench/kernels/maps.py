"""Tensor maps: how the copy engine of a Hopper GPU sees a tensor (cuTensorMapEncode*)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import byref, c_int, c_uint32, c_uint64, c_void_p

import torch
from torch import Tensor

from csbench.errors import BackendError
from csbench.kernels import nvrtc

# From cuda.h: CUtensorMapDataType; CUtensorMapSwizzle by the bytes of a row; L2 promotion.
_NUMBERS = {torch.float16: 6, torch.float32: 7, torch.bfloat16: 9}
ROUNDED_TO_TF32 = 11  # float32, on its way to shared memory; tensor cores would truncate it
_SWIZZLES = {0: 0, 32: 1, 64: 2, 128: 3}
_PROMOTE_256B = 3

Pair = tuple[int, int]


class TensorMap(ctypes.Structure):
    """CUtensorMap: 128 opaque bytes, passed to kernels by value."""

    _fields_ = [("bytes", ctypes.c_ubyte * 128)]


def tiled(
    tensor: Tensor, extent: Sequence[int], stride: Sequence[int], box: Sequence[int], *,
    step: Sequence[int] | None = None, swizzle: int = 128, numbers: int | None = None,
) -> TensorMap:  # fmt: skip
    """Boxes of a tensor, zero outside of it; dimensions from the innermost on, in elements.

    `stride` leaves out the innermost dimension's, 1. With `step` every so many-th element is taken,
    and `box` counts those between as well. `swizzle` is the bytes of a row whose pieces of 16 are
    exchanged, 0 for none; `numbers` a CUtensorMapDataType other than the tensor's.
    """
    rank, found = len(extent), _aligned()
    code = nvrtc.driver().cuTensorMapEncodeTiled(
        byref(found), _NUMBERS[tensor.dtype] if numbers is None else numbers, rank,
        c_void_p(tensor.data_ptr()), (c_uint64 * rank)(*extent),
        (c_uint64 * (rank - 1))(*(s * tensor.element_size() for s in stride)),
        (c_uint32 * rank)(*box), (c_uint32 * rank)(*(step or [1] * rank)),
        0, _SWIZZLES[swizzle], _PROMOTE_256B, 0,
    )  # fmt: skip
    _check(code, f"boxes of {tuple(box)} in {tuple(extent)}")
    return found


def windows(
    image: Tensor, size: tuple[int, int, int, int], kernel: Pair, stride: Pair, padding: Pair,
    dilation: Pair, *, channels: int, pixels: int, numbers: int | None = None,
) -> TensorMap:  # fmt: skip
    """`pixels` consecutive output pixels x `channels` at one tap of a convolution, zero outside.

    `size` is (N, H, W, C) of an image that is channels last in memory; pairs are (vertical,
    horizontal). Rows of `channels` are swizzled.
    """
    n, h, w, c = size
    width, found = image.element_size(), _aligned()
    last = [p - (k - 1) * d for p, k, d in zip(padding, kernel, dilation, strict=True)]
    code = nvrtc.driver().cuTensorMapEncodeIm2col(
        byref(found), _NUMBERS[image.dtype] if numbers is None else numbers, 4,
        c_void_p(image.data_ptr()), (c_uint64 * 4)(c, w, h, n),
        (c_uint64 * 3)(c * width, w * c * width, h * w * c * width),
        (c_int * 2)(-padding[1], -padding[0]), (c_int * 2)(*reversed(last)), channels, pixels,
        (c_uint32 * 4)(1, stride[1], stride[0], 1),
        0, _SWIZZLES[channels * width], _PROMOTE_256B, 0,
    )  # fmt: skip
    _check(code, f"windows of {kernel} over an image {size}")
    return found


def _aligned() -> TensorMap:
    """A tensor map at an address that is a multiple of 64, as the driver demands."""
    buffer = (ctypes.c_ubyte * (128 + 63))()
    return TensorMap.from_buffer(buffer, -ctypes.addressof(buffer) % 64)


def _check(code: int, what: str) -> None:
    if code:
        raise BackendError(f"the CUDA driver refused a tensor map of {what} (error {code})")

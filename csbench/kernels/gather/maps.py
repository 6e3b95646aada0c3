"""Tensor maps: how the copy engine sees an activation's channels and columns."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import byref, c_uint32, c_uint64, c_void_p
from typing import TypeVar

import torch

from csbench.errors import BackendError
from csbench.kernels import nvrtc
from csbench.kernels.gather.geometry import Geometry
from csbench.kernels.gather.layout import WIDE, Activation
from csbench.kernels.wgmma.maps import TensorMap

T = TypeVar("T")

# From cuda.h.
_TYPES = {torch.float16: 6, torch.bfloat16: 9}
_SWIZZLE_128B, _PROMOTE_256B = 3, 3


def boxes(x: Activation, geometry: Geometry, plane: int) -> TensorMap:
    """Boxes of 64 channels x 64 columns of one plane; zero outside."""
    g = geometry
    # Channels come last where a row of shared memory is one channel's columns, else second.
    at = 4 if g.swizzled else 1
    extent = _insert(g.extent, at, x.channels)
    stride = _insert(g.in_stride, at, g.channel_stride)
    step = _insert(g.step, at, 1)
    # The copy engine counts a box in what it steps over.
    box = _insert([(b - 1) * s + 1 for b, s in zip(g.box, g.step, strict=True)], at, WIDE)
    buffer = (ctypes.c_ubyte * (128 + 63))()
    found = TensorMap.from_buffer(buffer, -ctypes.addressof(buffer) % 64)
    code = nvrtc.driver().cuTensorMapEncodeTiled(
        byref(found), _TYPES[x.data.dtype], 5, c_void_p(x.data[plane].data_ptr()),
        (c_uint64 * 5)(*extent), (c_uint64 * 4)(*(2 * s for s in stride[1:])),
        (c_uint32 * 5)(*box), (c_uint32 * 5)(*step), 0,
        _SWIZZLE_128B if g.swizzled else 0, _PROMOTE_256B, 0,
    )  # fmt: skip
    if code:
        raise BackendError(
            f"the CUDA driver refused a tensor map of {x.channels} channels, columns {extent}, "
            f"in boxes of {box} (error {code})"
        )
    return found


def _insert(values: Sequence[T], at: int, value: T) -> list[T]:
    return [*values[:at], value, *values[at:]]

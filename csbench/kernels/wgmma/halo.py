"""Launches of wgmma/halo.cu: 3x3 kernels on at most 64 channels, each pixel staged once."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int
from typing import NamedTuple

import torch
from torch import Tensor

from csbench.kernels import nvrtc
from csbench.kernels.wgmma import maps
from csbench.kernels.wgmma.launch import Geometry, processors
from csbench.kernels.wgmma.pack import BLOCK, padded
from csbench.kernels.wgmma.tile import Kind

_SHARED, _THREADS, _PIXELS, _MAX_BUFFERS = 232448, 288, 64, 4


class Halo(NamedTuple):
    """The tile of an image width: as many whole rows as fit 64 pixels, for two warpgroups."""

    width: int

    @property
    def rows(self) -> int:
        """Output rows of a tile."""
        return 2 * (_PIXELS // (self.width + 1))

    def buffers(self, kind: Kind) -> int:
        """Tiles that are staged at once."""
        room = _SHARED - self._fixed_bytes(kind)
        return min(_MAX_BUFFERS, room // self._buffer_bytes(kind))

    def shared(self, kind: Kind) -> int:
        """Dynamic shared memory in bytes."""
        return self._fixed_bytes(kind) + self.buffers(kind) * self._buffer_bytes(kind)

    def _buffer_bytes(self, kind: Kind) -> int:
        pixels = (self.rows + 2) * (self.width + 1) + 1
        return kind.planes * -(-pixels * 128 // 1024) * 1024

    def _fixed_bytes(self, kind: Kind) -> int:
        tap = kind.planes * BLOCK * (64 if kind.sparse else 128) + 512 * kind.sparse
        return 1024 + -(-9 * tap // 1024) * 1024 + 2 * kind.planes * _PIXELS * 128 + 128

    def __str__(self) -> str:
        return f"{self.rows} rows of {self.width} with a halo"


def fits(kind: Kind, g: Geometry) -> bool:
    """Whether the kernel takes this convolution."""
    unit = g.stride == (1, 1) and g.dilation == (1, 1)
    shape = g.kernel == (3, 3) and g.padding == (1, 1) and padded(g.cin) == BLOCK
    return unit and shape and g.size[1] < _PIXELS and Halo(g.size[1]).buffers(kind) >= 2


class _Shape(ctypes.Structure):
    _fields_ = [
        *((name, c_int) for name in ("images", "height", "row_tiles", "relu", "residual")),
        ("residual_scale", c_float),
    ]


def convolve(
    kind: Kind, tile: Halo, g: Geometry, x: Tensor, weights: Tensor, scale: Tensor, bias: Tensor,
    *, relu: bool, residual: Tensor | None = None, residual_scale: float = 1.0,
) -> Tensor:  # fmt: skip
    """As launch.convolve."""
    images, height, width, _ = x.shape
    out = torch.empty(
        images, height, width, kind.planes * padded(g.cout), dtype=x.dtype, device=x.device
    )
    reads = maps.boxes(x, width + 1, tile.rows + 2)
    writes = maps.boxes(out, width, tile.rows // 2)
    adds = writes if residual is None else maps.boxes(residual, width, tile.rows // 2)
    row_tiles, blocks = -(-height // tile.rows), padded(g.cout) // BLOCK
    shape = _Shape(images, height, row_tiles, relu, residual is not None, residual_scale)
    grid = (min(images * row_tiles, -(-processors(x.device.index) // blocks)), blocks)
    kernel(kind, tile).launch(
        grid, _THREADS, [reads, writes, adds, weights, scale, bias, shape],
        shared=tile.shared(kind), overlap=True,
    )  # fmt: skip
    return out


def options(kind: Kind, tile: Halo) -> tuple[str, ...]:
    """The compiler's -D options."""
    values = {
        "CS_SPARSE": int(kind.sparse), "CS_BF16": int(kind.bf16), "CS_PLANES": kind.planes,
        "HALO_W": tile.width, "HALO_BUFFERS": tile.buffers(kind),
    }  # fmt: skip
    return tuple(f"-D{name}={value}" for name, value in values.items())


def kernel(kind: Kind, tile: Halo) -> nvrtc.Kernel:
    """The kernel of one image width on torch's current device."""
    module = nvrtc.load("wgmma/halo.cu", options=options(kind, tile))
    return module.kernel("cs_halo").prepare(shared=tile.shared(kind))

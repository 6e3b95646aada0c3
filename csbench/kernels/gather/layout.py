"""How activations lie in memory: every channel a run of columns, images or pixels innermost.

From eight images on, images are neighbours: `[H, W, blocks of images, C, inner]`, so a box of 64
columns is 64 images at one pixel (or 8 images at 8 pixels) and no place is spent on borders. Fewer
images lie one after the other, `[C, N, H, pitch]`, lines padded to 16 bytes.
"""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_longlong
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

EIGHT = 8  # 16-bit numbers in the 16 bytes that the copy engine and ldmatrix align to
WIDE = 64  # columns of one row of shared memory
_WIDE_FROM = 48  # images from which padding to 64 costs less than boxes of eight


class Layout(NamedTuple):
    """Places of one channel's elements: images, height, width."""

    images: int
    height: int
    width: int

    @property
    def along_images(self) -> bool:
        """Whether neighbouring columns are images rather than pixels of a line."""
        return self.images >= EIGHT

    @property
    def inner(self) -> int:
        """Neighbouring images, padding included; 1 where pixels are neighbours."""
        if not self.along_images:
            return 1
        return WIDE if self.images >= _WIDE_FROM else eights(self.images)

    @property
    def blocks(self) -> int:
        """Blocks of `inner` images."""
        return -(-self.images // self.inner) if self.along_images else 1

    @property
    def pitch(self) -> int:
        """Columns between neighbouring lines of an image whose pixels are neighbours."""
        return eights(self.width)

    @property
    def columns(self) -> int:
        """Columns of a channel, padding included."""
        if self.along_images:
            return self.height * self.width * self.blocks * self.inner
        return self.images * self.height * self.pitch

    def strides(self, channels: int) -> Strides:
        """Elements between neighbours along each dimension in a tensor of so many channels."""
        if not self.along_images:
            image = self.height * self.pitch
            return Strides(2**30, 0, image, self.images * image, self.pitch, 1)
        block = channels * self.inner
        return Strides(
            self.inner, block, 1, self.inner, self.width * self.blocks * block, self.blocks * block
        )


class Unfolding(NamedTuple):
    """What a layer reads of each line where pixels are neighbours: `out_width` columns a tap."""

    out_width: int
    taps: int
    stride: int
    padding: int
    dilation: int

    def is_near(self, width: int) -> bool:
        """Whether it reads at most a column aside, and every or every other one of a line."""
        aside = (-self.padding, (self.taps - 1) * self.dilation - self.padding)
        within = -1 <= aside[0] <= aside[1] <= 1
        return within and self.stride in (1, 2) and self.out_width == -(-width // self.stride)

    @property
    def pitch(self) -> int:
        """Columns of a tap, padding included."""
        return eights(self.out_width)

    def columns(self, layout: Layout) -> int:
        """What it reads of a channel, padding included."""
        return layout.images * layout.height * self.taps * self.pitch


class Strides(NamedTuple):
    """Image n lies at n // inner * image_block + n % inner * image; the rest is linear."""

    inner: int
    image_block: int
    image: int
    channel: int
    height: int
    width: int


class Columns(ctypes.Structure):
    """struct Columns of gather/columns.cuh."""

    _fields_ = [
        ("inner", c_int),
        *((name, c_longlong) for name in (
            "image_block", "image", "channel", "height", "width", "plane",
        )),
    ]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Activation:
    """Numbers as 16-bit planes `[planes, channels * columns]`: fp16 or bf16, or high + low fp16.

    With two planes the numbers are stored times a power of two, which the caller remembers. What a
    following layer reads may be there already, `[planes, lines * taps * pitch]`.
    """

    data: Tensor
    channels: int
    layout: Layout
    unfolding: Unfolding | None = None
    unfolded: Tensor | None = None

    @classmethod
    def empty(
        cls, planes: int, dtype: torch.dtype, channels: int, layout: Layout, device: torch.device
    ) -> Activation:
        """Room for an activation; nothing is written."""
        shape = (planes, channels * layout.columns)
        return cls(torch.empty(shape, dtype=dtype, device=device), channels, layout)

    def like(self, channels: int, layout: Layout) -> Activation:
        """Room for another one of the same numbers and device."""
        return Activation.empty(len(self.data), self.data.dtype, channels, layout, self.data.device)

    def room_for(self, unfolding: Unfolding) -> Tensor:
        """Room for what a layer of that unfolding reads; nothing is written."""
        size = self.channels * unfolding.columns(self.layout)
        return self.data.new_empty(len(self.data), size)

    @property
    def plane(self) -> int:
        """Elements of a plane."""
        return self.data.shape[1]

    @property
    def places(self) -> Columns:
        """Its places, as kernels take them."""
        return Columns(*self.layout.strides(self.channels), self.plane)


def eights(count: int) -> int:
    """The next multiple of eight."""
    return -(-count // EIGHT) * EIGHT

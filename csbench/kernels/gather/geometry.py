"""A convolution as boxes of 64 columns: what the copy engine reads and where results go.

Columns have four dimensions, the first of which is contiguous in memory:

    images are neighbours, 48 or more   (image, block of images, width, height)
    images are neighbours, fewer        (image, width, height, -)
    pixels are neighbours               (width, tap, height, image); flat for 1x1 products

Where pixels are neighbours, the copy engine can neither step along its first dimension nor start at
any pixel, so the input is unfolded: a line holds the columns under each horizontal tap. The layer
before may have stored it so, else a kernel of its own does.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import prod
from typing import NamedTuple

from csbench.kernels.gather.layout import EIGHT, WIDE, Layout, Unfolding, eights

Pair = tuple[int, int]
Four = tuple[int, int, int, int]
MOST_PIXELS = 16  # of a window that four blocks of columns share


class Shape(NamedTuple):
    """A convolution without its weights; pairs are (vertical, horizontal)."""

    images: int
    cin: int
    cout: int
    size: Pair
    out_size: Pair
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair

    @property
    def input(self) -> Layout:
        return Layout(self.images, *self.size)

    @property
    def output(self) -> Layout:
        return Layout(self.images, *self.out_size)

    @property
    def window(self) -> Pair | None:
        """What 2 x 2 neighbouring output pixels read together, where tiles may share it."""
        plain = self.stride == self.dilation == (1, 1) and self.kernel != (1, 1)
        height, width = (n + 1 for n in self.kernel)
        shared = plain and self.input.inner == WIDE and height * width <= MOST_PIXELS
        return (height, width) if shared else None

    @property
    def unfolding(self) -> Unfolding:
        """What it reads of each line where pixels are neighbours."""
        return Unfolding(
            self.out_size[1], self.kernel[1], self.stride[1], self.padding[1], self.dilation[1]
        )

    @property
    def is_product(self) -> bool:
        """Whether every output pixel reads the one input pixel at its place."""
        return self.kernel == (1, 1) and self.stride == (1, 1) and self.padding == (0, 0)


class Geometry(NamedTuple):
    """Columns of a convolution by dimension; see the module.

    `extent` and `in_stride` are the input's, `size` and `out_stride` the output's; the copy engine
    steps by `step`. `swizzled`: rows of shared memory are 64 columns, else 8 columns of each of
    64 channels lie together.
    """

    swizzled: bool
    extent: Four
    in_stride: Four
    channel_stride: int
    step: Four
    size: Four
    out_stride: Four
    out_channel: int
    box: Four
    taps: tuple[Four, ...]  # offsets of every tap (or pixel of a window)
    unfolded: bool = False  # whether the input is

    def windowed(self, window: Pair) -> Geometry:
        """The same where tiles are 2 x 2 pixels: `taps` are the pixels that they read."""
        _, _, x, y = self.taps[0]
        pixels = tuple((0, 0, x + j, y + i) for i, j in product(*map(range, window)))
        return self._replace(box=(WIDE, 1, 2, 2), taps=pixels)

    @property
    def blocks(self) -> Four:
        """Boxes along each dimension of the output."""
        a, b, c, d = (-(-s // b) for s, b in zip(self.size, self.box, strict=True))
        return a, b, c, d


def geometry(s: Shape) -> Geometry:
    """The columns of a convolution."""
    if s.input.along_images:
        return _along_images(s)
    return _flat(s) if s.is_product else _along_pixels(s)


def _along_images(s: Shape) -> Geometry:
    inner, blocks = s.input.inner, s.input.blocks
    i, o = s.input.strides(s.cin), s.output.strides(s.cout)
    (height, width), (out_height, out_width) = s.size, s.out_size
    offsets = [(x, y) for y, x in _offsets(s)]
    if inner == WIDE:
        return Geometry(
            True, (inner, blocks, width, height), (1, i.image_block, i.width, i.height), i.channel,
            (1, 1, s.stride[1], s.stride[0]), (inner, blocks, out_width, out_height),
            (1, o.image_block, o.width, o.height), o.channel, (WIDE, 1, 1, 1),
            tuple((0, 0, x, y) for x, y in offsets),
        )  # fmt: skip
    size = (inner, out_width, out_height, 1)
    return Geometry(
        False, (inner, width, height, 1), (1, i.width, i.height, i.height * height), i.channel,
        (1, s.stride[1], s.stride[0], 1), size, (1, o.width, o.height, 0), o.channel, _box(size),
        tuple((0, x, y, 0) for x, y in offsets),
    )  # fmt: skip


def _flat(s: Shape) -> Geometry:
    columns = s.input.columns
    return Geometry(
        True, (columns, 1, 1, 1), (1, columns, columns, columns), columns, (1, 1, 1, 1),
        (columns, 1, 1, 1), (1, 0, 0, 0), columns, (WIDE, 1, 1, 1), ((0, 0, 0, 0),),
    )  # fmt: skip


def _along_pixels(s: Shape) -> Geometry:
    height, (out_height, out_width) = s.size[0], s.out_size
    across = s.kernel[1]
    unfolded = (across, s.stride[1], s.padding[1]) != (1, 1, 0)
    pitch = eights(out_width)
    line = across * pitch
    out = s.output.strides(s.cout)
    size = (out_width, 1, out_height, s.images)
    return Geometry(
        False, (out_width, across, height, s.images), (1, pitch, line, height * line),
        s.images * height * line, (1, 1, s.stride[0], 1), size, (1, 0, out.height, out.image),
        out.channel, _box(size),
        tuple((0, tap % across, y, 0) for tap, (y, _) in enumerate(_offsets(s))), unfolded,
    )  # fmt: skip


def _offsets(s: Shape) -> Iterator[Pair]:
    """Of every tap, from an output pixel's first input pixel (vertical, horizontal)."""
    for r, q in product(range(s.kernel[0]), range(s.kernel[1])):
        yield r * s.dilation[0] - s.padding[0], q * s.dilation[1] - s.padding[1]


def _box(size: Four) -> Four:
    """Eight columns along the first dimension, eight along the others together: fewest boxes."""
    widths = (1, 2, 4, 8)
    choices = [
        (EIGHT, b, c, d) for b, c, d in product(widths, widths, widths) if b * c * d * EIGHT == WIDE
    ]

    def count(box: Four) -> int:
        return prod(-(-s // b) for s, b in zip(size, box, strict=True))

    return min(choices, key=lambda box: (count(box), box[3], box[2]))

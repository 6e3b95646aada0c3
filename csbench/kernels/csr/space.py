"""The flat space of output positions in which every tap is a shift, for staged.cu.

Lines of an image follow one another, and images too. What a tap reads beyond the end of a line is
the padding in front of the next one, so that a line needs only the larger of both paddings. Strides
are taken apart: a phase is the input at one remainder of row and column, and inside a phase taps
are shifts again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

MAX_PHASES = 4  # of rows and of columns: the arrays in staged.cu


class Shape(NamedTuple):
    """A convolution without its weights; `images` counts words (see word_of)."""

    images: int
    channels: int
    size: tuple[int, int]
    rows: int
    out_size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]

    @property
    def pixels(self) -> int:
        """Output pixels of all images."""
        return self.images * self.out_size[0] * self.out_size[1]


@dataclass(frozen=True)
class Axis:
    """Lines, or positions of a line: `length` of them, of which `count` are outputs."""

    count: int
    length: int
    phases: tuple[int, ...]
    taps: tuple[tuple[int, int], ...]  # phase number and shift of each tap


@dataclass(frozen=True)
class Space:
    """Both axes of a shape."""

    shape: Shape
    y: Axis
    x: Axis

    @classmethod
    def of(cls, shape: Shape) -> Space:
        """The space of a convolution."""
        return cls(shape, _axis(shape, 0), _axis(shape, 1))

    @property
    def positions(self) -> int:
        """Of all images, padding included."""
        return self.shape.images * self.y.length * self.x.length

    @property
    def phases(self) -> int:
        return len(self.y.phases) * len(self.x.phases)

    @cached_property
    def taps(self) -> tuple[tuple[int, int], ...]:
        """Of each tap the phase and the shift in the flat space."""
        return tuple(
            (phase_y * len(self.x.phases) + phase_x, shift_y * self.x.length + shift_x)
            for phase_y, shift_y in self.y.taps
            for phase_x, shift_x in self.x.taps
        )

    @property
    def reach(self) -> int:
        """The largest shift."""
        return max(shift for _, shift in self.taps)

    @property
    def is_plain(self) -> bool:
        """Whether positions are pixels of the input, one for one and in its order."""
        shape = self.shape
        return shape.taps == 1 and shape.stride == (1, 1) and shape.padding == (0, 0)


def _axis(shape: Shape, i: int) -> Axis:
    stride, padding, extent = shape.stride[i], shape.padding[i], shape.size[i]
    starts = [tap * shape.dilation[i] for tap in range(shape.kernel[i])]
    phases = tuple(sorted({start % stride for start in starts}))
    taps = tuple((phases.index(start % stride), start // stride) for start in starts)
    needed = shape.out_size[i] + starts[-1] // stride
    length = needed
    # Position `length` may be read as position 0 of the next line while both are padding.
    for shared in range(1, needed - shape.out_size[i] + 1):
        last, first = stride * (shared - 1) + phases[-1], stride * (needed - shared) + phases[0]
        if last - padding >= 0 or first - padding < extent:
            break
        length = needed - shared
    return Axis(shape.out_size[i], length, phases, taps)

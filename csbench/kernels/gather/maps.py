"""How the copy engine sees an activation's channels and columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from csbench.kernels import maps
from csbench.kernels.gather.geometry import Geometry, Pair
from csbench.kernels.gather.layout import WIDE, Activation
from csbench.kernels.maps import TensorMap

T = TypeVar("T")


def boxes(
    x: Activation, geometry: Geometry, plane: int, channels: int = WIDE, window: Pair | None = None
) -> TensorMap:
    """Boxes of so many channels x 64 columns of one plane, or of all pixels of a window (height,
    width), one after another; zero outside."""
    g = geometry
    # Channels come last where a row of shared memory is one channel's columns, else second.
    at = 4 if g.swizzled and window is None else 1
    columns = g.box if window is None else (*g.box[:2], window[1], window[0])
    # The copy engine counts a box in what it steps over.
    box = _insert([(b - 1) * s + 1 for b, s in zip(columns, g.step, strict=True)], at, channels)
    return maps.tiled(
        x.data[plane], _insert(g.extent, at, x.channels),
        _insert(g.in_stride, at, g.channel_stride)[1:], box, step=_insert(g.step, at, 1),
        swizzle=128 if g.swizzled else 0,
    )  # fmt: skip


def _insert(values: Sequence[T], at: int, value: T) -> list[T]:
    return [*values[:at], value, *values[at:]]

"""One convolution as the latency kernels see it: groups of channels or vectors, its stem form, what
fits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from csbench.backends.vector.units import units_of
from csbench.core.case import Case
from csbench.errors import PatternError
from csbench.graph.program import Conv
from csbench.kernels import two_of_four
from csbench.kernels.gather.pack import Units
from csbench.kernels.latency import io, vectors
from csbench.kernels.latency import plan as plans
from csbench.kernels.latency.io import Planes
from csbench.kernels.latency.pack import VECTORS, Order
from csbench.sparse.layout import group_geometry, to_groups

_FEW_CHANNELS = 4  # a strided layer of so few reads windows of 2 x 4 pixels as channels
_WINDOW, _ORIGIN = (2, 4), -2
_OF_VECTORS = ("ovw", "shfl-bw", "block")


class Grouping(NamedTuple):
    """What a layer keeps, as the kernels see it: one of every `m` in spans of `span` channels.

    m = 1 is dense, m = 2 any two of four neighbours in that order (see Order), VECTORS any columns
    that 32 output channels share.
    """

    m: int
    span: int = 0

    def order(self, channels: int) -> Order:
        """The order of so many channels for this grouping; as they come where it does not fit."""
        fits = self.m > 1 and channels % (self.span or self.m) == 0
        return Order(channels, *self) if fits else Order(channels, 1)


@dataclass(frozen=True, eq=False)
class Kernelized:
    """A convolution as the kernels see it: its grouping, and windows of pixels as channels."""

    conv: Conv
    weight: Tensor
    grouping: Grouping
    shape: plans.Shape
    windowed: bool
    units: Units | None = None  # of a pattern of vectors

    @property
    def m(self) -> int:
        return self.grouping.m

    @property
    def order(self) -> Order:
        """The order of channels that a sparse layer reads; a dense one takes any."""
        return self.grouping.order(int(self.weight.shape[1]))


def grouping(conv: Conv) -> Grouping:
    """How the kernels take the layer's pattern (`cs`, `nm`, one of vectors, or none)."""
    if conv.pattern is None:
        return Grouping(1)
    if conv.pattern.name in _OF_VECTORS:
        return Grouping(VECTORS)
    cin = conv.weight.shape[1]
    n, m, span = group_geometry(conv.pattern, cin)
    if n > 1:
        return Grouping(2, 2)
    return Grouping(m, 0 if span == cin and conv.pattern.name == "cs" else span)


def kernelize(conv: Conv, images: int, rows: int) -> Kernelized:
    """The layer for `images` images with `rows` stored output channels."""
    (_, height, width), (_, out_height, out_width) = conv.input_size, conv.output_size
    _, _, kh, kw = conv.weight.shape
    shape = plans.Shape(
        images, height, width, rows, out_height, out_width, (kh, kw),
        conv.stride[0], conv.padding, conv.dilation,
    )  # fmt: skip
    found = grouping(conv)
    few = conv.weight.shape[1] <= _FEW_CHANNELS and conv.dilation == (1, 1)
    if found.m == VECTORS:
        return Kernelized(conv, conv.weight, found, shape, False, units_of(conv))
    if found.m > 1 or not few or conv.stride != (2, 2):
        return Kernelized(conv, conv.weight, found, shape, False)
    return _windowed(conv, shape)


def _windowed(conv: Conv, shape: plans.Shape) -> Kernelized:
    """A layer of stride 2 as one of stride 1 on windows: window (Y, X) starts at (2Y, 2X).

    Rows come in pairs. Columns come in fours, one step of two apart, so that two neighbouring taps
    are two windows apart (dilation 2). Windows are stored from X = -1 on, the first that is not
    all padding.
    """
    cout, cin, kh, kw = conv.weight.shape
    (pad_y, pad_x), (win_y, win_x) = conv.padding, _WINDOW
    first_y, first_x = math.floor(-pad_y / 2), 2 * math.floor(-pad_x / 2)
    taps_y = math.floor((kh - 1 - pad_y) / 2) - first_y + 1
    taps_x = (kw - 1 - pad_x - first_x) // win_x + 1
    weight = conv.weight.new_zeros(cout, win_y, win_x, cin, taps_y, taps_x)
    for r in range(kh):
        y, dy = divmod(r - pad_y - 2 * first_y, win_y)
        for q in range(kw):
            x, dx = divmod(q - pad_x - first_x, win_x)
            weight[:, dy, dx, :, y, x] = conv.weight[:, :, r, q]
    reshaped = replace(
        shape, height=-(-shape.height // 2), width=-(-(shape.width - _ORIGIN) // 2),
        taps=(taps_y, taps_x), stride=1, padding=(-first_y, -first_x // 2 + _ORIGIN // 2),
        dilation=(1, 2),
    )  # fmt: skip
    return Kernelized(conv, weight.flatten(1, 3), Grouping(1), reshaped, True)


def pack_input(x: Tensor, layer: Kernelized, order: Order, split: bool, scale: float) -> Planes:
    """A torch tensor as the planes that the layer reads."""
    x = as_float(x)
    if layer.windowed:
        return io.pack(x, split, order, scale, _WINDOW, 2, _ORIGIN)
    return io.pack(x, split, order, scale)


def as_float(x: Tensor) -> Tensor:
    """float32 and float16 as they are, others as float32: what the kernels read."""
    return x if x.dtype in (torch.float32, torch.half) else x.float()


def why_not(conv: Conv, case: Case) -> str | None:
    """One sentence: the reason this layer cannot run here; None when it can."""
    if conv.groups != 1:
        return f"it has {conv.groups} groups; the latency kernels do ungrouped convolutions"
    if conv.stride[0] != conv.stride[1]:
        return f"its stride {conv.stride} differs between rows and columns"
    reason = _why_not_pattern(conv)
    if reason is not None:
        return reason
    cout = conv.weight.shape[0]
    try:
        layer = kernelize(conv, case.batch, cout)
    except PatternError as error:
        return str(error)
    split, most = case.dtype == "fp32", None
    if layer.units is not None:
        if not vectors.fits(layer.units, cout):
            units = f"units of {vectors.UNIT} channels"
            return f"the latency kernels take vectors that fill {units}, not {conv.pattern}"
        most = partial(vectors.most, layer.units, layer.order, 2 if split else 1)
    if not plans.candidates(layer.shape, layer.order, layer.m, split, most):
        size = f"{conv.input_size[1]}x{conv.input_size[2]}"
        return f"no tile fits {case.batch} images of {size}, or it takes too many"
    return None


def _why_not_pattern(conv: Conv) -> str | None:
    pattern, cin = conv.pattern, conv.weight.shape[1]
    if pattern is None or pattern.name in _OF_VECTORS:
        return None
    if pattern.name not in ("cs", "nm"):
        return f"its pattern is {pattern}; the latency kernels take cs, nm:N:M and vectors"
    n, m, span = group_geometry(pattern, cin)
    if cin % m or cin % span or m > 256:
        return f"{cin} input channels do not make groups of {pattern} (M at most 256)"
    if n > 1 and not two_of_four.fits(conv.weight):
        return two_of_four.refusal(pattern.family)
    if n == 1 and int((to_groups(conv.weight, m, span) != 0).sum(3).max()) > 1:
        return f"its weights keep more than one of some {m} candidates"
    return None

"""Launches of latency/conv.cu: one layer, or two that read the same planes."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_float, c_int, c_longlong, c_void_p
from math import prod

from torch import Tensor

from csbench.kernels import maps, nvrtc
from csbench.kernels.latency.io import Planes
from csbench.kernels.latency.pack import VECTORS, Packed
from csbench.kernels.latency.plan import Plan, Shape, fetched, is_cut
from csbench.kernels.latency.vectors import Vectors
from csbench.kernels.maps import TensorMap

ACTIVATIONS = {"none": 0, "relu": 1, "relu6": 2}


class _Conv(ctypes.Structure):
    """struct Conv of latency/conv.cuh, field by field."""

    _fields_ = [
        *((name, c_void_p) for name in ("weights", "scale", "bias", "residual", "out")),
        ("out_plane", c_longlong), ("out_scale", c_float), ("residual_scale", c_float),
        *((name, c_int) for name in (
            "rows", "row_blocks", "pixels", "out_width", "tiles", "span", "taps_h", "taps_w",
            "dilation_h", "dilation_w", "stride", "pad_y", "pad_x", "cut", "columns", "halo",
            "grid_stride", "sets", "run_log", "sub_shift", "chunks", "chunk_log", "stages",
            "cluster_log", "share", "inverse", "receive", "activation", "unit_bytes",
        )),
        ("starts", c_void_p), ("places", c_void_p),
    ]  # fmt: skip


def _launch_of(layers: int) -> type[ctypes.Structure]:
    """struct Launch of latency/conv.cuh for one layer or two."""
    size = layers * (ctypes.sizeof(TensorMap) + ctypes.sizeof(_Conv)) + ctypes.sizeof(c_int)
    fields = [
        ("map", TensorMap * layers), ("conv", _Conv * layers), ("blocks", c_int),
        ("pad", ctypes.c_byte * (-size % 64)),  # the driver reads as far as C aligns it
    ]  # fmt: skip
    return type("_Launch", (ctypes.Structure,), {"_fields_": fields})


_LAUNCHES = (_launch_of(1), _launch_of(2))


class Convolution:
    """One layer under one plan, ready to launch on planes of its input's order."""

    def __init__(
        self, shape: Shape, packed: Packed | Vectors, m: int, plan: Plan, split: bool,
        activation: str, out_float: bool = False,
    ) -> None:  # fmt: skip
        self.plan, self.shape = plan, shape.flat()
        self.scale, self.bias = packed.scale, packed.bias
        self._held: tuple[Tensor, ...]  # weights first
        own: dict[str, int] = {}  # arguments of weights in vectors
        if isinstance(packed, Vectors):
            held = packed.held(plan, self.shape)
            self._held = held.weights, held.starts, packed.places
            own = {
                "unit_bytes": held.room, "starts": held.starts.data_ptr(),
                "places": packed.places.data_ptr(),
            }  # fmt: skip
        else:
            self._held = (packed.blocked(plan.tile.rows),)
        s, order = self.shape, packed.order
        sets, run = order.sets_for(m)
        sub = order.places.bit_length() - 1 if m > 2 else 3
        pixels, share = s.out_height * s.out_width, -(-plan.span // plan.cluster)
        self._arguments = _Conv(
            weights=self._held[0].data_ptr(), scale=self.scale.data_ptr(),
            bias=self.bias.data_ptr(), out_plane=s.images * pixels * s.rows,
            rows=s.rows, row_blocks=plan.grid[0], pixels=pixels, out_width=s.out_width,
            tiles=-(-pixels // plan.span), span=plan.span, taps_h=s.taps[0], taps_w=s.taps[1],
            dilation_h=s.dilation[0], dilation_w=s.dilation[1], stride=s.stride,
            pad_y=s.padding[0], pad_x=s.padding[1],
            cut=int(is_cut(s, plan.span)), columns=plan.box[1],
            halo=plan.box[0] * plan.box[1], grid_stride=1 if s.point else s.stride,
            sets=sets, run_log=run.bit_length() - 1, sub_shift=min(3, sub),
            chunks=plan.chunks, chunk_log=plan.chunk_log, stages=plan.stages,
            cluster_log=plan.cluster.bit_length() - 1, share=share, inverse=65536 // share + 1,
            receive=plan.receive, activation=ACTIVATIONS[activation], **own,
        )  # fmt: skip
        self._options = split, m, out_float

    @property
    def bytes(self) -> int:
        """Weights as stored for this plan, with scales and biases."""
        tensors = (*self._held, self.scale, self.bias)
        return sum(t.numel() * t.element_size() for t in tensors)

    def launch(self, x: Planes, out: Planes | Tensor, residual: Planes | None = None) -> None:
        """Queue the layer on torch's current stream; `out` is a float NHWC tensor if asked for."""
        _launch((self,), (self.arguments(x, out, residual),), x)

    def arguments(self, x: Planes, out: Planes | Tensor, residual: Planes | None) -> _Conv:
        """struct Conv of latency/conv.cuh for these values."""
        a = self._arguments
        if isinstance(out, Planes):
            a.out, a.out_scale = out.data.data_ptr(), out.scale
        else:
            a.out = out.data_ptr()
        a.residual = None
        if residual is not None:
            a.residual, a.residual_scale = residual.data.data_ptr(), 1 / residual.scale
        return a

    def kernel(self, paired: bool) -> nvrtc.Kernel:
        """The kernel for this plan, for the layer alone or with another."""
        options = kernel_options(self.plan, *self._options, paired)
        return nvrtc.load("latency/conv.cu", options=options).kernel("conv")

    def map(self, x: Planes) -> TensorMap:
        """How the copy engine sees x: (channel, column, row, image, plane), boxes of one tile."""
        s, stored = self.shape, x.order.stored
        row, step = s.width * stored, s.stride if s.point else 1
        rows, columns = fetched(s, self.plan.box)
        channels = 64 if self.plan.chunk_log else 32
        return maps.tiled(
            x.data, (stored, s.width, s.height, s.images, x.data.shape[0]),
            (stored, row, row * s.height, row * s.height * s.images),
            (channels, columns, rows, 1, 1), step=(1, step, step, 1, 1), swizzle=2 * channels,
        )  # fmt: skip


def launch_pair(
    first: Convolution, second: Convolution, x: Planes, outs: tuple[Planes, Planes]
) -> None:
    """Queue two layers that read x in one launch; tiles are equal, and K is in one block."""
    arguments = first.arguments(x, outs[0], None), second.arguments(x, outs[1], None)
    _launch((first, second), arguments, x)


def _launch(layers: Sequence[Convolution], arguments: Sequence[_Conv], x: Planes) -> None:
    blocks = [prod(layer.plan.grid) for layer in layers]
    count, plan = len(layers), layers[0].plan
    maps = (TensorMap * count)(*(layer.map(x) for layer in layers))
    launched = _LAUNCHES[count - 1](maps, (_Conv * count)(*arguments), blocks[0])
    layers[0].kernel(count > 1).launch(
        sum(blocks), plan.tile.threads, [launched], shared=max(c.plan.shared for c in layers),
        cluster=plan.cluster if plan.cluster > 1 else None, overlap=True,
    )  # fmt: skip


def kernel_options(
    plan: Plan, split: bool, m: int, out_float: bool, paired: bool = False
) -> tuple[str, ...]:
    """The -D options of latency/conv.cu."""
    names = ("MT", "NT", "WM", "WN", "WK", "BLOCKS")
    options = dict(zip(names, plan.tile, strict=True))
    options |= {"SPLIT": split, "MODE": 3 if m == VECTORS else min(m, 3) - 1}
    options |= {"CLUSTERED": plan.cluster > 1, "FLOAT_OUT": out_float}
    options |= {"PAIRED": paired}
    return tuple(f"-D{name}={int(value)}" for name, value in options.items())

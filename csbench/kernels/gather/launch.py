"""Launches of gather/conv.cu."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
from ctypes import c_float, c_int, c_uint32, c_void_p
from math import prod

import torch
from torch import Tensor

from csbench.kernels.gather import io, maps
from csbench.kernels.gather.geometry import Geometry, Pair, Shape
from csbench.kernels.gather.layout import Activation, Unfolding
from csbench.kernels.gather.tile import Kind, Plan, kernel
from csbench.kernels.gather.weights import Held


class _Divisor(ctypes.Structure):
    """struct Divisor of gather/blocks.cuh: n // by is n * factor >> shift for n below 2^31."""

    _fields_ = [("by", c_int), ("factor", c_uint32), ("shift", c_int)]

    def __init__(self, by: int) -> None:
        bits = (by - 1).bit_length()
        super().__init__(by, -(-(1 << 31 + bits) // by), 31 + bits)


class _Unfolding(ctypes.Structure):
    """struct Unfolding of gather/shape.cuh."""

    _fields_ = [
        ("pitch", _Divisor),
        *((name, c_int) for name in (
            "width", "taps", "out_pitch", "stride", "padding", "dilation", "plane", "joined",
        )),
    ]  # fmt: skip


class _Shape(ctypes.Structure):
    """struct Shape of gather/conv.cu."""

    _fields_ = [
        ("blocks", _Divisor * 3), ("row_blocks", _Divisor),
        *((name, c_int * 4) for name in ("box_bits", "step", "size", "out_stride")),
        *((name, c_int) for name in (
            "channel", "plane", "stages", "boxes", "total_boxes", "slots", "ranks", "slot_bytes",
            "unit_bytes", "line", "units", "tiles", "scratch", "scratch_step", "barriers",
            "factors", "relu",
        )),
        ("residual_scale", c_float), ("unfolding", _Unfolding),
    ]  # fmt: skip


class _Pointers(ctypes.Structure):
    """struct Pointers of gather/conv.cu."""

    _fields_ = [
        (name, c_void_p) for name in (
            "records", "starts", "boxes", "rows", "scale", "bias", "limit", "residual", "out",
            "unfolded",
        )
    ]  # fmt: skip


def convolve(
    kind: Kind, plan: Plan, shape: Shape, geometry: Geometry, x: Activation, weights: Held,
    rows: Tensor, scale: Tensor, bias: Tensor, *, relu: bool, limit: Tensor | None = None,
    residual: Activation | None = None, residual_scale: float = 1.0,
    unfolding: Unfolding | None = None,
) -> Activation:  # fmt: skip
    """act(scale * (W x) + bias + residual_scale * residual); scale and bias by row of the units.

    `limit` is where ReLU6 ends, in the result's scale; None for ReLU. With an `unfolding` the
    result is stored as a layer after it reads it, too.
    """
    t = plan.tile
    if geometry.unfolded:
        x = _unfolded(x, shape.unfolding)
    out = x.like(shape.cout, shape.output)
    if unfolding is not None:
        out = dataclasses.replace(out, unfolding=unfolding, unfolded=out.room_for(unfolding))
    window = shape.window if t.shared else None
    structure = _shape(kind, plan, geometry, window, weights, out, relu, residual_scale)
    pointers = _Pointers(
        *(None if p is None else p.data_ptr() for p in (
            weights.records, weights.starts, weights.boxes, rows, scale, bias, limit,
            None if residual is None else residual.data, out.data, out.unfolded,
        ))
    )  # fmt: skip
    grid = _grid(plan, structure.row_blocks.by, structure.tiles, processors(x.data.device.index))
    kernel(kind, plan, geometry.swizzled, unfolding is not None).launch(
        grid, t.threads,
        [
            *(maps.boxes(x, geometry, plane, t.box_channels, window)
              for plane in (0, kind.planes - 1)),
            pointers, structure,
        ],
        shared=plan.shared(kind), cluster=plan.ranks if plan.ranks > 1 else None, overlap=True,
    )  # fmt: skip
    return out


def _shape(
    kind: Kind, plan: Plan, geometry: Geometry, window: Pair | None, weights: Held, out: Activation,
    relu: bool, residual_scale: float,
) -> _Shape:  # fmt: skip
    """What the kernel is told of a layer and its result."""
    g, t = geometry if window is None else geometry.windowed(window), plan.tile
    units = len(weights.starts)
    row_blocks = -(-units // t.groups)
    tiles = row_blocks * -(-prod(g.blocks) // (t.column_blocks if window is None else 1))
    return _Shape(
        (_Divisor * 3)(*map(_Divisor, g.blocks[:3])), _Divisor(row_blocks),
        tuple(b.bit_length() - 1 for b in g.box),
        tuple(b * s for b, s in zip(g.box, g.step, strict=True)), g.size, g.out_stride,
        g.out_channel, out.plane, weights.stages, plan.boxes, len(weights.boxes), plan.slots,
        plan.ranks, plan.slot_bytes(kind), plan.unit_bytes(kind),
        0 if window is None else window[1], units, tiles, plan.scratch(kind),
        plan.scratch_bytes(kind) if plan.buffers > 1 else 0, plan.barriers(kind),
        plan.factors(kind), relu, residual_scale, _unfolding(out, g.swizzled),
    )  # fmt: skip


def _unfolding(out: Activation, joined: bool) -> _Unfolding:
    u = out.unfolding
    if u is None:
        return _Unfolding()
    return _Unfolding(
        _Divisor(out.layout.pitch), out.layout.width, u.taps, u.pitch, u.stride, u.padding,
        u.dilation, out.channels * u.columns(out.layout), joined,
    )  # fmt: skip


def _unfolded(x: Activation, wanted: Unfolding) -> Activation:
    """What a layer reads: as the layer before has left it, or by a kernel of its own."""
    if x.unfolded is None or x.unfolding != wanted:
        return io.unfold(x, wanted)
    return Activation(x.unfolded, x.channels, x.layout)


def _grid(plan: Plan, row_blocks: int, tiles: int, processors: int) -> int:
    """Blocks: persistent ones keep their row block, so they are a multiple of the row blocks."""
    if plan.tile.split:
        return tiles * plan.ranks
    room = plan.tile.blocks * processors
    return min(tiles, max(1, room // row_blocks) * row_blocks)


@functools.cache
def processors(device: int) -> int:
    """Multiprocessors of a device."""
    return int(torch.cuda.get_device_properties(device).multi_processor_count)

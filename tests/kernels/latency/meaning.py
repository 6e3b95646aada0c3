"""What the latency kernels compute, in torch: records are read as their lanes read them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor

from csbench.backends.cs import latency_plan
from csbench.kernels import search
from csbench.kernels.latency import io, launch
from csbench.kernels.latency import plan as plans
from csbench.kernels.latency.head import Head
from csbench.kernels.latency.io import Planes, Window
from csbench.kernels.latency.pack import Order, Packed
from csbench.kernels.latency.stem import Stem
from csbench.kernels.latency.vectors import Held, Vectors

LANE = torch.arange(32)
ROW, COLUMN = LANE // 4, LANE % 4  # of a lane in a fragment


def decoded(packed: Packed, m: int, split: bool) -> Tensor:
    """The weights that tensor cores multiply: float64 [rows, places, taps], taps row by row."""
    order = packed.order
    sets, run = order.sets_for(m)
    units, m16, size = packed.records.shape
    assert size == plans.record_bytes(m, split)
    records = packed.records.view(sets, units // sets, m16, size).permute(2, 1, 0, 3).contiguous()
    read = {1: _dense, 2: _two_of_four}.get(m, _one_of_many)
    found = torch.zeros(m16, units // sets, sets, 16, run * 32, dtype=torch.float64)
    read(found, records, split, order)
    scale = packed.scale[: m16 * 16, None, None].double()
    return found.permute(0, 3, 2, 4, 1).reshape(m16 * 16, order.stored, -1) * scale


def decoded_vectors(packed: Vectors, held: Held, plan: plans.Plan, s: plans.Shape) -> Tensor:
    """float64 [rows of the units, places of the input, taps] that tensor cores multiply."""
    planes, units = len(packed.parts), packed.units.count
    chunks, records = held.starts.shape[1] - 1, held.weights
    size = planes * 1024 + 64
    assert records.shape[1] == size and held.room % size == 0
    words = records[:, : planes * 1024].contiguous().view(torch.half).double()
    # [record, m16, row, lane's pair, k half, row half, 2]
    lanes = words.reshape(-1, 2, planes, 8, 4, 2, 2, 2).sum(2)
    columns = records[:, -64:].contiguous().view(torch.int32).long().reshape(-1, 4, 2, 2)
    plane = -(-plan.box[0] * plan.box[1] * 128 // 1024) * 1024
    found = torch.zeros(units, 32, packed.order.stored, s.taps[0] * s.taps[1]).double()
    for unit in range(units):
        for chunk in range(chunks):
            first, last = held.starts[unit, chunk : chunk + 2].tolist()
            assert (last - first) * size <= held.room
            offset = columns[first:last]
            group, inside = offset // (planes * plane), offset % (planes * plane)
            assert bool((inside < plane).all())
            pixel, channel = inside // 128, inside % 128 // 2 + 64 * group
            place = channel + (32 * chunk << plan.chunk_log)
            down, across = pixel // plan.box[1], pixel % plan.box[1]
            assert not (down % s.dilation[0]).any() and not (across % s.dilation[1]).any()
            tap = down // s.dilation[0] * s.taps[1] + across // s.dilation[1]
            values = lanes[first:last].permute(0, 3, 4, 6, 1, 5, 2).flatten(4)
            at = place * found.shape[3] + tap  # [record, lane's pair, k half, 2]
            found[unit].flatten(1).T.index_add_(0, at.flatten(), values.flatten(0, 3))
    return found.flatten(0, 1) * packed.scale[: units * 32, None, None].double()


def _dense(found: Tensor, records: Tensor, split: bool, order: Order) -> None:
    # Two fragments of m16n8k16 a plane, one after the other.
    count = 2 if split else 1
    halves = records.contiguous().view(torch.half).double()
    words = halves.unflatten(-1, (count, 2, 32, 4, 2)).sum(-5)
    for k16 in range(2):
        for register in range(4):
            for i in range(2):
                row, column = ROW + 8 * (register % 2), 2 * COLUMN + i + 8 * (register // 2)
                found[..., row, 16 * k16 + column] = words[..., k16, :, register, i]


def _two_of_four(found: Tensor, records: Tensor, split: bool, order: Order) -> None:
    count = 2 if split else 1
    halves, rest = records[..., : count * 512], records[..., count * 512 :]
    words = halves.contiguous().view(torch.half).double().unflatten(-1, (count, 32, 4, 2)).sum(-4)
    metadata = rest.contiguous().view(torch.int32).view(*rest.shape[:-1], 2, 8)
    for register in range(4):
        high, half = register % 2, register // 2
        nibble = metadata[..., half, ROW] >> (16 * high + 4 * COLUMN) & 15
        for i in range(2):
            place = 16 * half + 4 * COLUMN + (nibble >> 2 * i & 3)
            _put(found, ROW + 8 * high, place, words[..., register, i])


def _one_of_many(found: Tensor, records: Tensor, split: bool, order: Order) -> None:
    # Both planes of a lane's two words come together.
    count = 2 if split else 1
    halves, rest = records[..., : count * 256], records[..., count * 256 :]
    words = halves.contiguous().view(torch.half).double().unflatten(-1, (32, count, 2, 2)).sum(-3)
    choices = rest[..., :128].reshape(*rest.shape[:-1], 32, 2, 2)  # row half, column of two
    metadata = rest[..., 128:].contiguous().view(torch.int32)
    shift = min(3, order.places.bit_length() - 1)
    for half in range(2 * order.run):  # of 16 channels of a step
        for high in range(2):
            nibble = metadata[..., ROW] >> (16 * high + 4 * COLUMN) & 15
            for i in range(2):
                pair = (2 * COLUMN + i >> shift) + (half << 3 - shift)
                kept = words[..., high, i] * (choices[..., high, i] == pair)
                place = 16 * half + 4 * COLUMN + (nibble >> 2 * i & 3)
                _put(found, ROW + 8 * high, place, kept)


def _put(found: Tensor, row: Tensor, place: Tensor, values: Tensor) -> None:
    """Add to [..., rows, places] a value for each lane."""
    index = (row * found.shape[-1] + place).long()
    found.flatten(-2).scatter_add_(-1, index, values)


def planes(values: Tensor, split: bool, order: Order, scale: float) -> Planes:
    """[images, height, width, stored] numbers as planes."""
    high = (values * scale).half()
    parts = [high, (values * scale - high.double()).half()] if split else [high]
    return Planes(torch.stack(parts), order, scale)


def numbers(x: Planes) -> Tensor:
    """float64 [images, height, width, stored]."""
    return x.data.double().sum(0) / x.scale


def pack(
    x: Tensor, split: bool, order: Order, scale: float = 1.0, window: tuple[int, int] = (1, 1),
    step: int = 1, origin_x: int = 0,
) -> Planes:  # fmt: skip
    """io.pack: each window of pixels side by side as channels, in the order, padding zero."""
    _, _, h, w = x.shape
    height, width = -(-h // step), -(-(w - origin_x) // step)
    wide = F.pad(x.double(), (-origin_x, step * width, 0, step * height))
    parts = [
        wide[:, :, dy : dy + step * height : step, dx : dx + step * width : step]
        for dy in range(window[0])
        for dx in range(window[1])
    ]
    channels = torch.cat(parts, 1).permute(0, 2, 3, 1)
    assert channels.shape[3] == order.channels
    stored = channels[..., order.channel.clamp_min(0)] * (order.channel >= 0)
    return planes(stored, split, order, scale)


def unpack(x: Planes) -> Tensor:
    """io.unpack: float32, NCHW."""
    taken = x.order.channel >= 0
    out = torch.empty(*numbers(x).shape[:3], x.order.channels)
    out[..., x.order.channel[taken]] = numbers(x)[..., taken].float()
    return out.permute(0, 3, 1, 2)


def max_pool(x: Planes, window: Window, height: int, width: int) -> Planes:
    """io.max_pool."""
    image = numbers(x).permute(0, 3, 1, 2)
    out = F.max_pool2d(image, window.size, window.step, window.padding)
    assert out.shape[2:] == (height, width)
    return planes(out.permute(0, 2, 3, 1), x.split, x.order, x.scale)


def mean_pool(x: Planes) -> Planes:
    """io.mean_pool."""
    return planes(numbers(x).mean((1, 2), keepdim=True), x.split, x.order, x.scale)


class Convolution:
    """launch.Convolution: a layer under one plan, from its packed records."""

    def __init__(
        self, shape: plans.Shape, packed: Packed | Vectors, m: int, plan: plans.Plan, split: bool,
        activation: str, out_float: bool = False,
    ) -> None:  # fmt: skip
        self.plan, self.shape, self._bias = plan, shape, packed.bias.double()
        if isinstance(packed, Vectors):
            held = packed.held(plan, shape.flat())
            self.bytes, rows = held.weights.numel(), packed.places.long()
            weight, there = decoded_vectors(packed, held, plan, shape), rows >= 0
            assert sorted(rows[there].tolist()) == list(range(shape.rows))  # all is written, once
            self._weight = torch.zeros(int(rows.max()) + 1, *weight.shape[1:]).double()
            self._weight[rows[there]] = weight[there[: len(weight)]]
            self._bias = torch.zeros(len(self._weight)).double()
            self._bias[rows[there]] = packed.bias.double()[there]
        else:
            self.bytes = packed.blocked(plan.tile.rows).numel()
            self._weight = decoded(packed, m, split)
        self._weight = self._weight.unflatten(2, shape.taps)
        self._activation, self._floats = activation, out_float

    def launch(self, x: Planes, out: Any, residual: Planes | None = None) -> None:
        s = self.shape
        assert x.data.shape[1:] == (s.images, s.height, s.width, self._weight.shape[1])
        (top, left), (high, wide) = s.padding, s.extent
        image = F.pad(x.data.double().sum(0).permute(0, 3, 1, 2), (left, wide, top, high))
        y = F.conv2d(image, self._weight[: s.rows], None, s.stride, 0, s.dilation)
        y = y[:, :, : s.out_height, : s.out_width] + self._bias[: s.rows, None, None]
        if residual is not None:
            y = y + numbers(residual).permute(0, 3, 1, 2)
        if self._activation != "none":
            y = y.clamp(0, 6 if self._activation == "relu6" else None)
        y = y.permute(0, 2, 3, 1)
        if self._floats:
            out.copy_(y)
        else:
            out.data.copy_(planes(y, out.split, out.order, out.scale).data)


def launch_pair(
    first: Convolution, second: Convolution, x: Planes, outs: tuple[Planes, Planes]
) -> None:
    """launch.launch_pair."""
    assert first.plan.tile == second.plan.tile and first.plan.cluster == second.plan.cluster == 1
    first.launch(x, outs[0])
    second.launch(x, outs[1])


def run_stem(self: Stem, x: Tensor) -> Planes:
    """Stem.__call__: fragments are read as their lanes read them."""
    first, cin, (kh, kw) = self.first, self.first.channels, self.first.kernel
    halves = self.weights.view(torch.half).double().sum(-3)  # [64 rows, step, m16, lane, 8]
    blocks, steps = halves.shape[:2]
    k = torch.zeros(blocks, 4, 16, steps * 16, dtype=torch.float64)
    for register in range(4):
        for i in range(2):
            row, column = ROW + 8 * (register % 2), 2 * COLUMN + i + 8 * (register // 2)
            for step in range(steps):
                k[:, :, row, step * 16 + column] = halves[:, step, :, :, 2 * register + i]
    run = -(-kw * cin // 8) * 8
    rows = k.flatten(0, 2)[: self.order.stored, : kh * run].unflatten(1, (kh, run))
    weight = rows[..., : kw * cin].unflatten(2, (kw, cin)).permute(0, 3, 1, 2)
    scale, bias = (t[: len(weight)].double() for t in (self.scale, self.bias))
    stored = planes(x.double(), self.split, Order(cin, 1), self.scales[0]).data.double().sum(0)
    y = F.conv2d(stored, weight * scale[:, None, None, None], bias, 2, first.padding)
    if first.activation != "none":
        y = y.clamp(0, 6 if first.activation == "relu6" else None)
    y = F.max_pool2d(y, 3, 2, 1).permute(0, 2, 3, 1)
    return planes(y, self.split, self.order, self.scales[1])


def run_head(self: Head, x: Planes, dtype: torch.dtype) -> Tensor:
    """Head.__call__."""
    rows = self.weights.double().transpose(1, 2).flatten(2).flatten(0, 1)[: self.rows]
    weight = rows * self.scale[: self.rows, None].double()
    y = x.data.double().sum(0).mean((1, 2)) @ weight.T + self.bias[: self.rows].double()
    return y.to(dtype)[:, :, None, None]


def install(patch: pytest.MonkeyPatch) -> None:
    """The latency kernels run on a CPU, and the first plan of every layer is taken."""
    for function in (pack, unpack, max_pool, mean_pool):
        patch.setattr(io, function.__name__, function)
    patch.setattr(launch, "Convolution", Convolution)
    patch.setattr(launch, "launch_pair", launch_pair)
    patch.setattr(Stem, "__call__", run_stem)
    patch.setattr(Head, "__call__", run_head)
    patch.setattr(latency_plan.search, "ranking", lambda runs, *_: sorted(runs))
    patch.setattr(search, "in_context", lambda *_: None)

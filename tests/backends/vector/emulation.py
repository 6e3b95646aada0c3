"""The gather kernel in Python: the same packed weights, boxes, addresses and places, in float64."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from csbench.kernels.gather.geometry import Four, Geometry, Shape
from csbench.kernels.gather.layout import Layout, eights
from csbench.kernels.gather.pack import STAGE_ENDS, Packed, Units
from csbench.kernels.gather.weights import coordinates


def stored(x: Tensor) -> Tensor:
    """NCHW as a flat tensor of columns, padding NaN."""
    n, c, h, w = x.shape
    layout = Layout(n, h, w)
    flat = torch.full((c * layout.columns,), float("nan"), dtype=torch.float64)
    flat[places(layout, c)] = x.double()
    return flat


def places(layout: Layout, channels: int) -> Tensor:
    """Where element (n, c, h, w) lies."""
    s = layout.strides(channels)
    n, h, w = (torch.arange(size) for size in layout)
    image = n // s.inner * s.image_block + n % s.inner * s.image
    return (
        image[:, None, None, None] + torch.arange(channels)[:, None, None] * s.channel
        + h[:, None] * s.height + w * s.width
    )  # fmt: skip


def unfolded(flat: Tensor, s: Shape) -> Tensor:
    """What the kernel `unfold` makes of it."""
    lines = flat.reshape(s.cin * s.images * s.size[0], s.input.pitch)
    out = torch.zeros(len(lines), s.kernel[1], eights(s.out_size[1]), dtype=torch.float64)
    for tap, column in product(range(s.kernel[1]), range(s.out_size[1])):
        source = column * s.stride[1] + tap * s.dilation[1] - s.padding[1]
        if 0 <= source < s.size[1]:
            out[:, tap, column] = lines[:, source]
    return out.flatten()


def box(flat: Tensor, g: Geometry, channels: int, corner: Four, channel: int) -> Tensor:
    """[64 channels, 64 columns] as the copy engine brings them: zero outside."""
    out = torch.zeros(64, 64, dtype=torch.float64)
    columns = product(*(range(b) for b in reversed(g.box)))
    for number, reverse in enumerate(columns):
        at = [c + i * s for c, i, s in zip(corner, reversed(reverse), g.step, strict=True)]
        if all(0 <= a < e for a, e in zip(at, g.extent, strict=True)):
            place = sum(a * s for a, s in zip(at, g.in_stride, strict=True))
            present = min(64, channels - channel)
            first = place + channel * g.channel_stride
            stop = first + (present - 1) * g.channel_stride + 1
            out[:present, number] = flat[first : stop : g.channel_stride]
    return out


def records(packed: Packed, size: int, planes: int, swizzled: bool) -> tuple[Tensor, Tensor]:
    """Rows [records, 16] in the stage and weights [records, 16, rows of a unit]."""
    count = len(packed.records)
    address = packed.records[:, -32:].contiguous().view(torch.int16).long() & 0xFFFF
    ends = packed.starts[:, 1:].flatten().long() - 1
    marked = (address & STAGE_ENDS != 0).all(1).nonzero()[:, 0]
    assert torch.equal(marked, ends)
    address &= STAGE_ENDS - 1
    if swizzled:
        rows = address // 128
        assert torch.equal(address % 128, rows % 8 * 16)
    else:
        rows = address // 8192 * 64 + address % 8192 // 16
    total = torch.zeros(count, 16, size, dtype=torch.float64)
    for plane in packed.records[:, :-32].reshape(count, planes, -1).unbind(1):
        words = plane.contiguous().view(torch.float16).double()
        lanes = words.reshape(count, -1, 8, 4, min(2, size // 8), 2, 2)  # pair, g, t, n8, +8, k
        total += lanes.permute(0, 5, 3, 6, 1, 4, 2).reshape(count, 16, size)
    return rows, total


def convolve(s: Shape, g: Geometry, units: Units, packed: Packed, planes: int, x: Tensor) -> Tensor:
    """The product as NCHW, of NCHW x; places that nobody writes are NaN."""
    flat = stored(x)
    if g.unfolded:
        flat = unfolded(flat, s)
    out = torch.full((s.cout * s.output.columns,), float("nan"), dtype=torch.float64)
    rows, weights = records(packed, units.size, planes, g.swizzled)
    boxes = coordinates(packed, g).tolist()
    offsets = torch.arange(s.cout) * g.out_channel
    for index in product(*(range(b) for b in g.blocks)):
        first = [i * b * t for i, b, t in zip(index, g.box, g.step, strict=True)]
        tiles = []
        for low, high, channel, _ in boxes:
            tap = (low & 0xFFFF, low >> 16, high & 0xFFFF, high >> 16)
            signed = (t - 65536 if t >= 32768 else t for t in tap)
            a, b, c, d = (f + t for f, t in zip(first, signed, strict=True))
            tiles.append(box(flat, g, s.cin, (a, b, c, d), channel))
        for unit, channels in enumerate(units.rows):
            sums = torch.zeros(64, units.size, dtype=torch.float64)
            for stage in range(packed.stages):
                held = torch.cat(
                    tiles[stage * packed.boxes_of_stage : (stage + 1) * packed.boxes_of_stage]
                )
                for r in range(
                    int(packed.starts[unit, stage]), int(packed.starts[unit, stage + 1])
                ):
                    sums += held[rows[r]].T @ weights[r]
            _store(out, g, index, channels, offsets, sums)
    return out[places(s.output, s.cout)]


def _store(
    out: Tensor, g: Geometry, index: Four, channels: Tensor, offsets: Tensor, sums: Tensor
) -> None:
    for number, reverse in enumerate(product(*(range(b) for b in reversed(g.box)))):
        o = [i * b + r for i, b, r in zip(index, g.box, reversed(reverse), strict=True)]
        # Eight columns are stored together, so padding inside them is written too.
        corner = [o[0] // 8 * 8, *o[1:]]
        if all(a < size for a, size in zip(corner, g.size, strict=True)):
            place = sum(a * stride for a, stride in zip(o, g.out_stride, strict=True))
            present = channels >= 0
            out[offsets[channels[present].long()] + place] = sums[number, present]

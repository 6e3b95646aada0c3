"""What the wgmma kernels compute, in torch: packed weights are read as tensor cores read them."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor

from csbench.backends.cs import throughput_layer
from csbench.kernels import search
from csbench.kernels.wgmma import halo, launch
from csbench.kernels.wgmma.launch import Geometry, Window
from csbench.kernels.wgmma.pack import BLOCK, padded, stem_channels, tap_slots
from csbench.kernels.wgmma.stem import STEM_POOL
from csbench.kernels.wgmma.tile import Kind


def decode(data: Tensor, sparse: bool, dtype: torch.dtype = torch.float16) -> Tensor:
    """What the tensor core reads from one plane of packed bytes, as the PTX ISA describes it:
    [row blocks, k-steps, bytes] -> [row blocks, k-steps, 64, 64]."""
    blocks, steps, _ = data.shape
    width = 64 if sparse else 128
    stored = data[..., : 64 * width].contiguous().view(dtype)
    out = torch.zeros(blocks, steps, 64, 64, dtype=torch.float64)
    words = data[..., 64 * width :].contiguous().view(torch.int32).long() & 0xFFFFFFFF
    for row in range(64):
        flip = row // 2 % 4 if sparse else row % 8
        for column in range(width // 2):
            place = row * width // 2 + ((column // 8) ^ flip) * 8 + column % 8
            value = stored[..., place].double()
            if not sparse:
                out[..., row, column] = value
                continue
            step, half = column // 16, column % 16 // 8
            lane = row % 8 * 4 + step * 2 + half
            word = words[..., row // 16 * 32 + lane] >> (16 * (row % 16 // 8))
            index = word >> (4 * (column % 8 // 2) + 2 * (column % 2)) & 3
            at = (column // 2 * 4 + index)[..., None]
            out[..., row, :].scatter_add_(-1, at, value[..., None])
    return out


def weights(data: Tensor, kind: Kind, g: Geometry) -> Tensor:
    """OIHW float64 of packed weights, as they were scaled; rows and channels padded to 64."""
    dtype, value_bytes = _numbers(kind), BLOCK * (64 if kind.sparse else 128)
    metadata = data[..., kind.planes * value_bytes :]
    planes = [
        decode(
            torch.cat([data[..., i * value_bytes : (i + 1) * value_bytes], metadata], -1),
            kind.sparse, dtype,
        )
        for i in range(kind.planes)
    ]  # fmt: skip
    blocks = sum(planes).transpose(1, 2)  # type: ignore[union-attr]
    return blocks.reshape(len(blocks) * BLOCK, *g.kernel, padded(g.cin)).permute(0, 3, 1, 2)


def _numbers(kind: Kind) -> torch.dtype:
    return torch.bfloat16 if kind.bf16 else torch.float16


def packed(values: Tensor, kind: Kind) -> Tensor:
    """[N, H, W, padded channels] numbers as a packed activation."""
    high = values.to(_numbers(kind))
    if kind.planes == 1:
        return high
    parts = [high, (values - high.double()).to(high.dtype)]
    return torch.stack([p.unflatten(-1, (-1, BLOCK)) for p in parts], -2).flatten(-3)


def numbers(x: Tensor, kind: Kind) -> Tensor:
    """float64 [N, H, W, padded channels] of a packed activation."""
    return x.double().unflatten(-1, (-1, kind.planes, BLOCK)).sum(-2).flatten(-2)


def pack(x: Tensor, kind: Kind, gain: Tensor, order: Tensor | None = None) -> Tensor:
    """launch.pack."""
    channels = (x.double() * gain.double()).permute(0, 2, 3, 1)
    places = launch.places(torch.arange(x.shape[1]), "cpu") if order is None else order
    return packed(channels[..., places.long().clamp_min(0)] * (places >= 0), kind)


def unpack(x: Tensor, channels: int, kind: Kind, gain: Tensor, like: torch.dtype) -> Tensor:
    """launch.unpack."""
    return (numbers(x, kind)[..., :channels] / gain).permute(0, 3, 1, 2).to(like).contiguous()


def max_pool(x: Tensor, window: Window, kind: Kind) -> Tensor:
    """launch.max_pool."""
    out = F.max_pool2d(numbers(x, kind).permute(0, 3, 1, 2), *window)
    return packed(out.permute(0, 2, 3, 1), kind)


def average_pool(x: Tensor, kind: Kind) -> Tensor:
    """launch.average_pool."""
    return packed(numbers(x, kind).mean((1, 2), keepdim=True), kind)


def convolve(
    kind: Kind, tile: Any, g: Geometry, x: Tensor, data: Tensor, scale: Tensor, bias: Tensor, *,
    relu: bool, residual: Tensor | None = None, residual_scale: float = 1.0,
) -> Tensor:  # fmt: skip
    """launch.convolve and halo.convolve."""
    assert x.shape[1:] == (*g.size, kind.planes * padded(g.cin))
    image = numbers(x, kind).permute(0, 3, 1, 2)
    y = F.conv2d(image, weights(data, kind, g), None, g.stride, g.padding, g.dilation)
    y = (y.permute(0, 2, 3, 1) * scale.double()) + bias.double()
    assert y.shape[1:3] == g.out_size
    if residual is not None:
        y = y + residual_scale * numbers(residual, kind)
    return packed(y.clamp_min(0) if relu else y, kind)


def stem(
    kind: Kind, g: Geometry, x: Tensor, data: Tensor, scale: Tensor, bias: Tensor, gain: Tensor,
    *, relu: bool, pool: bool = False,
) -> Tensor:  # fmt: skip
    """stem and stem_pool: K of the one is rows of runs of channels, of the other of columns."""
    kh, kw = g.kernel
    if pool:
        # [block, plane, step, +8 in k, m8, row, k] -> rows x kernel row x column x channel
        values = data.double().permute(1, 0, 4, 5, 2, 3, 6).sum(0)
        rows = values.reshape(padded(g.cout), kh, tap_slots(kw) * 2, 4)
    else:
        # [block, m16, step, plane, row, t, +8 in k, +8 in row, pair]
        values = data.double().permute(3, 0, 1, 7, 4, 2, 6, 5, 8).sum(0)
        channels = stem_channels(g.cin, g.stride[0])
        run = -(-kw * channels // 8) * 8
        rows = values.reshape(padded(g.cout), -1)[:, : kh * run].reshape(-1, kh, run)
        rows = rows[..., : kw * channels].unflatten(-1, (kw, channels))
    weight = rows[:, :, :kw, : g.cin].permute(0, 3, 1, 2)
    image = x.double() * gain.double()
    y = F.conv2d(image, weight, None, g.stride, g.padding) * scale.double()[:, None, None]
    y = y + bias.double()[:, None, None]
    y = y.clamp_min(0) if relu else y
    y = F.max_pool2d(y, *STEM_POOL) if pool else y
    return packed(y.permute(0, 2, 3, 1), kind)


def install(patch: pytest.MonkeyPatch) -> None:
    """The wgmma kernels run on a CPU, and every layer takes the first of its tiles."""
    for function in (pack, unpack, max_pool, average_pool, convolve):
        patch.setattr(launch, function.__name__, function)
    patch.setattr(halo, "convolve", convolve)
    patch.setattr(throughput_layer, "stem", stem)
    patch.setattr(throughput_layer, "stem_pool", partial(stem, pool=True))
    patch.setattr(search, "fastest", lambda runs, *_: next(iter(runs)))

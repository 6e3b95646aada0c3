"""Weights of the wgmma kernels: dense, or 2:4 compressed as tensor cores read them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from csbench.kernels.two_of_four import positions

BLOCK = 64  # channels of one k-step, rows of one matrix instruction
_TOP = 14  # weights of a row are scaled to just below 2 ** 14, so their low halves keep all bits


def padded(channels: int) -> int:
    """Channels as stored: a multiple of 64."""
    return -(-channels // BLOCK) * BLOCK


def arranged(weight: Tensor) -> Tensor:
    """OIHW weights as [padded Cout, taps, padded Cin] float64."""
    cout, cin, kh, kw = weight.shape
    sizes = (padded(cout), kh * kw, padded(cin))
    full = torch.zeros(sizes, dtype=torch.float64, device=weight.device)
    full[:cout, :, :cin] = weight.double().permute(0, 2, 3, 1).reshape(cout, kh * kw, cin)
    return full


@dataclass(frozen=True, eq=False)
class PackedWeights:
    """`data` is [row blocks, k-steps, bytes]: values of each plane, then metadata when sparse.

    Row r was multiplied by 1 / unscale[r], a power of two. `stored_bytes` counts values and
    indices.
    """

    data: Tensor
    unscale: Tensor
    k_steps: int

    @property
    def stored_bytes(self) -> int:
        return self.data.numel() * self.data.element_size()


def pack(weight: Tensor, *, sparse: bool, planes: int, dtype: torch.dtype) -> PackedWeights:
    """Pack OIHW float32 weights for tensor cores as numbers of `dtype`, or sums of two of them.

    With `sparse` at most two of four neighbouring input channels may be kept at a tap. It works
    where the weights lie: a GPU packs a network in milliseconds, a CPU in seconds.
    """
    rows = arranged(weight)
    scaled, unscale = _scaled(rows.flatten(1))
    blocks = scaled.reshape(len(rows) // BLOCK, BLOCK, -1, BLOCK)
    blocks = blocks.transpose(1, 2)  # [row blocks, k-steps, 64 rows, 64 channels]
    values, metadata = _compress(blocks) if sparse else (blocks, None)
    high = values.to(dtype)
    parts = [high] if planes == 1 else [high, (values - high.double()).to(dtype)]
    pieces = [_swizzle(p) for p in parts] + ([] if metadata is None else [metadata])
    data = torch.cat(pieces, -1).contiguous()
    return PackedWeights(data, unscale, blocks.shape[1])


def _compress(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Two values of every four, and per k-step the 128 words of metadata as bytes.

    A word is what one thread of the warpgroup holds: lane = 4 * row + 2 * step + half has for
    16 columns (`half` of k32 `step`) four bits a chunk, row `row` low and row + 8 high.
    """
    chunks = _split(blocks, 16, 4)
    both = positions(chunks)
    values = chunks.gather(-1, both).flatten(-2)
    shifts = torch.tensor([0, 4, 8, 12], device=blocks.device)
    halves = (_split(both[..., 0] | both[..., 1] << 2, 4, 4) << shifts).sum(-1)
    by_row = halves.reshape(*halves.shape[:2], 4, 2, 8, 2, 2)  # warp, +8, row, step, half
    words = (by_row[:, :, :, 0] | by_row[:, :, :, 1] << 16).flatten(2)
    data = torch.stack([words >> shift & 255 for shift in (0, 8, 16, 24)], -1)
    return values, data.flatten(2).to(torch.uint8)


def _swizzle(values: Tensor) -> Tensor:
    """[..., 64 rows, columns] as bytes in shared memory's order: 16-byte chunks of a row of 128
    (64) bytes are exchanged by the row's number modulo 8 (half of it modulo 4)."""
    chunks = _split(values, -1, 8)
    count = chunks.shape[-2]
    row = torch.arange(BLOCK, device=values.device)[:, None]
    source = torch.arange(count, device=values.device)[None]
    source = source ^ (row % 8 if count == 8 else row // 2 % 4)
    stored = chunks.gather(-2, source[..., None].expand(chunks.shape))
    data: Tensor = stored.flatten(2).contiguous().view(torch.uint8)
    return data


def _split(values: Tensor, *sizes: int) -> Tensor:
    """The last dimension in several."""
    return values.reshape(*values.shape[:-1], *sizes)


def pack_stem(weight: Tensor, stride: int, *, planes: int, dtype: torch.dtype) -> PackedWeights:
    """Dense weights of a first layer as A fragments of mma.m16n8k16 (see wgmma/stem.cu).

    K is kernel rows of runs of (column, channel), each padded to groups of 8, the whole to 16.
    """
    cout, cin, kh, kw = weight.shape
    channels = stem_channels(cin, stride)
    run = -(-kw * channels // 8) * 8
    rows = torch.zeros(padded(cout), kh, run, dtype=torch.float64)
    rows[:cout, :, : kw * channels] = _columns(weight, channels).flatten(2)
    rows = torch.nn.functional.pad(rows.flatten(1), (0, -kh * run % 16))
    parts, unscale = _split_rows(rows, planes, dtype)
    # [plane, block, m16, +8, row, step, +8, t, pair] -> [block, m16, step, plane, row, t, +8k, +8]
    shape = (planes, len(rows) // BLOCK, 4, 2, 8, rows.shape[1] // 16, 2, 4, 2)
    data = parts.reshape(shape).permute(1, 2, 5, 0, 4, 7, 6, 3, 8).contiguous()
    return PackedWeights(data, unscale, shape[5])


def pack_stem_pool(weight: Tensor, *, planes: int, dtype: torch.dtype) -> PackedWeights:
    """Dense weights of a first layer as core matrices of wgmma (see wgmma/stem_pool.cu).

    K is kernel rows of columns of 4 channels, each row padded to a multiple of 4 columns.
    """
    cout, _, kh, kw = weight.shape
    width = tap_slots(kw) * 2
    rows = torch.zeros(padded(cout), kh, width, 4, dtype=torch.float64)
    rows[:cout, :, :kw] = _columns(weight, 4)
    parts, unscale = _split_rows(rows.flatten(1), planes, dtype)
    steps = kh * width // 4
    # [plane, block, m8, row, step, +8, k] -> [block, plane, step, +8, m8, row, k]
    shape = (planes, len(rows) // BLOCK, 8, 8, steps, 2, 8)
    data = parts.reshape(shape).permute(1, 0, 4, 5, 2, 3, 6).contiguous()
    return PackedWeights(data, unscale, steps)


def _columns(weight: Tensor, channels: int) -> Tensor:
    """OIHW as [Cout, kh, kw, channels] float64, the channels padded."""
    rows = weight.double().permute(0, 2, 3, 1)
    return torch.nn.functional.pad(rows, (0, channels - weight.shape[1]))


def _split_rows(rows: Tensor, planes: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows scaled by powers of two, as `planes` stacked tensors; and what undoes the scaling."""
    values, unscale = _scaled(rows)
    high = values.to(dtype)
    parts = [high] if planes == 1 else [high, (values - high.double()).to(dtype)]
    return torch.stack(parts), unscale


def _scaled(rows: Tensor) -> tuple[Tensor, Tensor]:
    """[rows, K] with the largest magnitude of each row just below 2^14, and 1 / the factors."""
    peak = rows.abs().amax(1, keepdim=True)
    scale = torch.exp2(torch.floor(_TOP - torch.log2(peak.clamp_min(1e-38))))
    scale = torch.where(peak > 0, scale, torch.ones_like(scale))
    return rows * scale, (1 / scale[:, 0]).float()


def tap_slots(kw: int) -> int:
    """Pairs of columns under a kernel row, a multiple of two."""
    return -(-kw // 4) * 2


def stem_channels(cin: int, stride: int) -> int:
    """Channels of a staged pixel: pairs must stay aligned when a step is cin * stride numbers."""
    return 4 if cin * stride % 2 else cin

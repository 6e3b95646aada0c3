"""direct.cu for one layer: how it is cut, packed and launched."""

from __future__ import annotations

import ctypes
from ctypes import c_int
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from csbench.kernels.csr import columns
from csbench.kernels.csr.columns import Lists, Weight
from csbench.kernels.csr.launch import Call, settle
from csbench.kernels.csr.space import Shape

SOURCE = "csr/direct.cu"
MAX_TAPS = 32  # a tap is five bits of an entry, and one of a word of those inside the image
MAX_OFFSET = 2**26  # words; the other bits
PAGE = 64  # columns in a page of shared memory


class Cut(NamedTuple):
    """A warp multiplies one of `splits` parts of a list of `v` rows for 32 * `words` pixels."""

    v: int
    words: int
    splits: int

    @property
    def warps(self) -> int:
        """Of a block: one for each part of as many groups as give eight."""
        return max(8, self.splits)


class Direct:
    """A layer cut in one way; packed when first run."""

    source, kernel = SOURCE, "csr_direct"

    def __init__(self, weight: Weight, shape: Shape, cut: Cut) -> None:
        self.weight, self.shape, self.cut = weight, shape, cut

    def __str__(self) -> str:
        v, words, splits = self.cut
        return f"direct {v} rows x {32 * words}, K in {splits}"

    @property
    def v(self) -> int:
        return self.cut.v

    @property
    def options(self) -> tuple[str, ...]:
        padded = int(self.shape.padding != (0, 0))
        return (f"-DROWS={self.v}", f"-DPIXELS={self.cut.words}", f"-DPADDED={padded}")

    @cached_property
    def packed(self) -> Packed:
        """A run is one group's list over all channels."""
        shape, device = self.shape, self.weight.values.device
        groups, lengths = self.weight.groups(self.v)
        order = columns.dealt(groups, lengths, len(groups), 1)  # long lists start first
        _, width = shape.size
        places = [
            (channel * shape.size[0] * width + y * shape.dilation[0] * width
             + x * shape.dilation[1]) * MAX_TAPS + y * shape.kernel[1] + x
            for channel in range(shape.channels)
            for y in range(shape.kernel[0])
            for x in range(shape.kernel[1])
        ]  # fmt: skip
        rows = order[:, 0].to(device, torch.int32).contiguous()
        lists = columns.lists(
            self.weight.values, order, torch.tensor(places), shape.channels, granule=4
        )
        settle(rows)
        return Packed(rows, lists)

    @property
    def bytes(self) -> int:
        return self.packed.bytes

    def call(
        self, x: Tensor, bias: Tensor, residual: Tensor | None, y: Tensor, activation: int
    ) -> Call:
        """The launch for these words (NCHW)."""
        rows, lists = self.packed
        cut, shape = self.cut, self.shape
        teams = cut.warps // cut.splits
        tiles = -(-shape.pixels // (32 * cut.words))
        sum_bytes = 4 if x.dim() == 4 else 8
        pages = 2 * 4 * PAGE * (1 + cut.v)
        layer = _Layer(
            shape.images, shape.channels, *shape.size, shape.rows, *shape.out_size, *shape.stride,
            *shape.padding, activation, *shape.kernel, *shape.dilation, len(rows), cut.splits,
        )  # fmt: skip
        return Call(
            grid=tiles * -(-len(rows) // teams), threads=32 * cut.warps,
            shared=cut.warps * max(pages, 32 * cut.v * cut.words * sum_bytes),
            arguments=[
                x, lists.weights, lists.offsets, lists.runs, rows, bias, residual, y, layer,
            ],
        )  # fmt: skip


class Packed(NamedTuple):
    """A weight as direct.cu reads it."""

    rows: Tensor  # int32 [groups, V]: output channels, -1 for none
    lists: Lists

    @property
    def bytes(self) -> int:
        return self.lists.bytes + 4 * self.rows.numel()


class _Layer(ctypes.Structure):
    """Layer of direct.cu."""

    _fields_ = [(name, c_int) for name in (
        "images", "channels", "height", "width", "rows", "out_height", "out_width",
        "stride_y", "stride_x", "pad_y", "pad_x", "activation", "kernel_y", "kernel_x",
        "dilation_y", "dilation_x", "groups", "splits",
    )]  # fmt: skip


def why_not(shape: Shape) -> str | None:
    """The reason this layer cannot run on direct.cu; None when it can."""
    if shape.taps > MAX_TAPS:
        return f"direct.cu takes up to {MAX_TAPS} taps; this layer has {shape.taps}"
    if shape.channels * shape.size[0] * shape.size[1] >= MAX_OFFSET:
        return f"direct.cu takes images of up to {MAX_OFFSET} numbers"
    return None

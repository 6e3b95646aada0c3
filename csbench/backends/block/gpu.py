"""`block-original` on a GPU: block.cu by NVRTC, a measured tile for each layer."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import torch
from torch import Tensor

from csbench.backends.base import LoweredConv, LoweredNetwork
from csbench.backends.block import measured, network
from csbench.backends.block.measured import ACTIVATIONS, MeasuredLayer
from csbench.backends.block.tile import PRECISIONS, Tile, candidates, depths, has_clusters, tiles
from csbench.core.case import Case
from csbench.graph.program import Conv, Program
from csbench.kernels import nvrtc
from csbench.sparse.formats import VALUE_BYTES, BlockPacked

SOURCE = "block/block.cu"
MAX_TAPS = 32  # a pixel's valid taps are the bits of one word
MAX_ELEMENTS = 2**31


def missing() -> str | None:
    """What keeps this kernel from running here, and how to get it."""
    if not torch.cuda.is_available():
        return "no CUDA device; the same pattern runs with --device cpu"
    return nvrtc.missing()


def why_not(conv: Conv, case: Case) -> str | None:
    """The reason this layer cannot run on this kernel; None when it can."""
    rows, channels = block_of(conv)
    cin, height, width = conv.input_size
    cout, out_height, out_width = conv.output_size
    taps = conv.weight.shape[2] * conv.weight.shape[3]
    piece = 16 // VALUE_BYTES[case.dtype]
    if conv.groups != 1:
        return f"the kernel takes no grouped convolutions; this layer has {conv.groups} groups"
    if cin % piece:
        return f"the kernel copies {piece} input channels at a time; this layer has {cin}"
    if taps > MAX_TAPS:
        return f"the kernel takes up to {MAX_TAPS} taps; this layer has {taps}"
    if max(cin * height * width, cout * out_height * out_width) * case.batch >= MAX_ELEMENTS:
        return f"the kernel addresses 2^31 elements; this layer at batch {case.batch} has more"
    if next(tiles(rows, channels, PRECISIONS[case.dtype]), None) is None:
        return f"the kernel takes no blocks of {rows}x{channels} in {case.dtype}"
    return None


def block_of(conv: Conv) -> tuple[int, int]:
    """The block shape (output, input channels) of the layer's pattern; 32x32 by default."""
    parameters = conv.pattern.parameters if conv.pattern else ()
    return (parameters[0], parameters[1]) if len(parameters) == 2 else (32, 32)


def lower(conv: Conv, case: Case) -> LoweredConv:
    """Pack the weight, choose a tile by measurement, and bind it."""
    return measured.lower(conv, case, BlockLayer)


def lower_network(program: Program, case: Case) -> LoweredNetwork:
    """Every layer's tile is chosen inside the network."""
    return network.lower_network(program, case, BlockLayer)


class BlockLayer(MeasuredLayer):
    """A packed layer on the device, and how to launch it with any tile."""

    kernel = "block.cu"
    why_not = staticmethod(why_not)

    def __init__(self, conv: Conv, case: Case) -> None:
        super().__init__(conv, case)
        self.precision = PRECISIONS[case.dtype]
        self.block = block_of(conv)
        packed = BlockPacked.pack(conv.weight, self.block)
        self.rows = len(packed.row_offsets) - 1
        self.kept = int(packed.row_offsets.diff().max())  # blocks in the fullest row
        self.values = self._arrange(packed.values).to(case.device, self.dtype)
        self.blocks = entries(conv, packed).to(case.device)
        self.row_offsets = packed.row_offsets.to(case.device)
        padded = torch.zeros(self.rows * self.block[0])
        padded[: len(conv.bias)] = conv.bias
        self.bias = padded.to(case.device)
        self.geometry = (
            *conv.input_size, *conv.output_size, *conv.weight.shape[2:], *conv.stride,
            *conv.padding, *conv.dilation, ACTIVATIONS[conv.activation],
        )  # fmt: skip
        self.signature = (self.block, self.precision, self.geometry, conv.residual, self.kept)
        found = candidates(
            *self.block, self.precision,
            block_rows=self.rows, kept=self.kept, positions=self.positions,
        )  # fmt: skip
        self.tiles = {str(tile): tile for tile in found}

    @staticmethod
    def digest() -> str:
        return nvrtc.digest(SOURCE)

    @staticmethod
    def compile_all(tiles: Iterable[Tile]) -> None:
        nvrtc.compile_all((SOURCE, tile.options) for tile in tiles)

    @property
    def bytes(self) -> int:
        """Values and indices as held on the device."""
        held = (self.values, self.blocks, self.row_offsets)
        return sum(t.numel() * t.element_size() for t in held)

    def launch(self, tile: Tile, x: Tensor, residual: Tensor | None, y: Tensor) -> None:
        positions = x.shape[0] * self.output_size[1] * self.output_size[2]
        grid = self.rows * -(-positions // tile.pixels) * tile.cluster
        _kernel(tile.options, x.device.index).launch(
            grid, tile.threads,
            [x, self.values, self.blocks, self.row_offsets, self.bias, residual, y,
             positions, self.rows, *self.geometry],
            shared=tile.shared_bytes, overlap=has_clusters(),
            cluster=tile.cluster if tile.cluster > 1 else None,
        )  # fmt: skip

    def _arrange(self, values: Tensor) -> Tensor:
        """[blocks, R, C] as the kernel reads it: channels before rows in fp32."""
        if self.precision == 0:
            return values.transpose(1, 2).contiguous()
        rows, channels = self.block
        depth = depths(channels, self.precision)[0]
        sliced = values.reshape(-1, rows, channels // depth, depth).transpose(1, 2).contiguous()
        return to_tf32(sliced) if self.precision == 1 else sliced


def entries(conv: Conv, packed: BlockPacked) -> Tensor:
    """Per kept block (offset of its first element in a window, tap | channels that exist << 5)."""
    cin, _, width = conv.input_size
    kernel_width, channels = conv.weight.shape[3], packed.block[1]
    per_tap = -(-cin // channels)
    tap, channel = packed.columns // per_tap, packed.columns % per_tap * channels
    pixel = tap // kernel_width * conv.dilation[0] * width + tap % kernel_width * conv.dilation[1]
    present = (cin - channel).clamp(max=channels)
    return torch.stack([pixel * cin + channel, tap | present << 5], dim=1).to(torch.int32)


def to_tf32(values: Tensor) -> Tensor:
    """Rounded to the ten bits of mantissa that tensor cores read (ties away from zero)."""
    bits = values.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


@cache
def _kernel(options: tuple[str, ...], device: int) -> nvrtc.Kernel:
    module = nvrtc.load(SOURCE, options=options, device=device)
    return module.kernel("block_convolution")

"""One convolution for the wgmma kernels: its packed weights on the device and its tile."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from csbench.core.case import Case
from csbench.graph.program import Conv
from csbench.kernels import nvrtc, search
from csbench.kernels.wgmma import halo, launch
from csbench.kernels.wgmma.halo import Halo
from csbench.kernels.wgmma.launch import Geometry
from csbench.kernels.wgmma.pack import BLOCK, pack, pack_stem, pack_stem_pool, padded
from csbench.kernels.wgmma.stem import stem, stem_pool
from csbench.kernels.wgmma.tile import Kind, Tile, candidates, options

_SOURCES = ("wgmma/conv.cu", "wgmma/halo.cu")
MAX_STRIDE, MAX_REACH, MAX_PIXELS = 8, 127, 2**31 - 256  # of the copy engine and of int32
FULL = 2.0**14  # where the largest magnitude of a tensor with a known bound is scaled to


def kind_of(dtype: str, sparse: bool) -> Kind:
    """What the kernels compute with in a precision: two fp16 planes for fp32 and tf32."""
    return Kind(sparse, planes=2 if dtype in ("fp32", "tf32") else 1, bf16=dtype == "bf16")


def geometry(conv: Conv) -> Geometry:
    """The layer's shape as the kernels take it."""
    kh, kw = conv.weight.shape[2:]
    return Geometry(
        conv.input_size[0], conv.output_size[0], conv.input_size[1:], conv.output_size[1:],
        (kh, kw), conv.stride, conv.padding, conv.dilation,
    )  # fmt: skip


def why_not_at_all(conv: Conv, case: Case) -> str | None:
    """The reason why not even the dense form of the kernel takes this layer."""
    kh, kw = conv.weight.shape[2:]
    reach = max(max(conv.padding), (kh - 1) * conv.dilation[0], (kw - 1) * conv.dilation[1])
    if conv.groups != 1:
        return f"the kernel takes no grouped convolutions; this layer has {conv.groups} groups"
    if conv.activation == "relu6":
        return "the kernel's epilogue has ReLU and no ReLU6"
    if max(conv.stride) > MAX_STRIDE or reach > MAX_REACH:
        return f"the copy engine takes strides to {MAX_STRIDE} and windows to {MAX_REACH} pixels"
    if case.batch * conv.output_size[1] * conv.output_size[2] > MAX_PIXELS:
        return f"the kernel counts pixels in 31 bits; batch {case.batch} has more"
    return None


class Layer:
    """A layer's weights on the device; `run` maps packed activations to a packed activation.

    With two planes, `scales` are those of x, residual and result: numbers are stored times them.
    """

    def __init__(
        self, conv: Conv, kind: Kind, device: str, scales: tuple[float, float, float] = (1, 1, 1)
    ) -> None:
        self.kind, self.geometry, self.relu = kind, geometry(conv), conv.activation == "relu"
        dtype = torch.bfloat16 if kind.bf16 else torch.float16
        weight = conv.weight.to(device)
        packed = pack(weight, sparse=kind.sparse, planes=kind.planes, dtype=dtype)
        x, residual, out = scales
        self.weights, self.k_steps = packed.data.to(device), packed.k_steps
        self.unscale = (packed.unscale * (out / x)).to(device)
        self.bias = (stored_rows(conv.bias) * out).to(device)
        self.residual_scale = out / residual
        self.stored_bytes = packed.stored_bytes
        # |result| <= gain * max|x| + bias_peak (+ max|residual|)
        self.gain = float(conv.weight.abs().flatten(1).sum(1).max())
        self.bias_peak = float(conv.bias.abs().max())
        blocks = padded(self.geometry.cout) // BLOCK
        self.tiles: dict[str, Tile | Halo] = {**candidates(kind, blocks, self.k_steps)}
        if halo.fits(kind, self.geometry):
            tile = Halo(self.geometry.size[1])
            self.tiles[str(tile)] = tile
        self.tile = next(iter(self.tiles.values()))

    def choose(self, x: Tensor, residual: Tensor | None) -> None:
        """Take the tile that is fastest on these packed activations (measured, cached)."""
        runs = {name: partial(self.run_with, t, x, residual) for name, t in self.tiles.items()}
        key = (
            "cs_wgmma", nvrtc.digest(*_SOURCES), self.kind, tuple(self.geometry), self.relu,
            residual is not None, x.shape[0],
        )  # fmt: skip
        jobs = [_source(self.kind, tile) for tile in self.tiles.values()]
        self.tile = self.tiles[search.fastest(runs, key, partial(nvrtc.compile_all, jobs))]

    @property
    def algorithm(self) -> str:
        """A short line for the records."""
        split = "3 fp16 products" if self.kind.planes == 2 else "bf16" if self.kind.bf16 else "fp16"
        form = "wgmma.sp" if self.kind.sparse else "wgmma"
        return f"{form} {split}, tile {self.tile}"

    def run(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """The fused convolution on packed activations."""
        return self.run_with(self.tile, x, residual)

    def run_with(self, tile: Tile | Halo, x: Tensor, residual: Tensor | None) -> Tensor:
        """The same by a tile of the caller's choice."""
        return self.convolve(
            tile, x, residual, self.unscale, self.bias, residual_scale=self.residual_scale
        )

    def convolve(
        self, tile: Tile | Halo, x: Tensor, residual: Tensor | None, scale: Tensor, bias: Tensor,
        residual_scale: float = 1.0,
    ) -> Tensor:  # fmt: skip
        """The same with scale and bias of the caller's."""
        fixed = (self.geometry, x, self.weights, scale, bias)
        if isinstance(tile, Halo):
            return halo.convolve(
                self.kind, tile, *fixed,
                relu=self.relu, residual=residual, residual_scale=residual_scale,
            )  # fmt: skip
        return launch.convolve(
            self.kind, tile, *fixed,
            relu=self.relu, residual=residual, residual_scale=residual_scale,
        )  # fmt: skip


class Stem:
    """A first layer of 2 to 4 channels, with the max pooling after it; reads torch's layout.

    `gain` and `out` are the powers of two that image and result are multiplied by.
    """

    def __init__(
        self, conv: Conv, kind: Kind, device: str, gain: float, out: float, pool: bool
    ) -> None:
        self.kind, self.geometry, self.pool = kind, geometry(conv), pool
        self.relu = conv.activation == "relu"
        dtype = torch.bfloat16 if kind.bf16 else torch.float16
        packed = (
            pack_stem_pool(conv.weight, planes=kind.planes, dtype=dtype)
            if pool
            else pack_stem(conv.weight, conv.stride[0], planes=kind.planes, dtype=dtype)
        )
        self.weights = packed.data.to(device)
        self.unscale = (packed.unscale * (out / gain)).to(device)
        self.bias = (stored_rows(conv.bias) * out).to(device)
        self.gain = torch.tensor(gain, device=device)
        self.stored_bytes = packed.stored_bytes

    @property
    def algorithm(self) -> str:
        """A short line for the records."""
        split = ", 3 fp16 products" if self.kind.planes == 2 else ""
        return f"wgmma{split}, max pooling within" if self.pool else f"mma m16n8k16{split}"

    def run(self, x: Tensor) -> Tensor:
        """The packed result of an NCHW image batch."""
        return (stem_pool if self.pool else stem)(
            self.kind, self.geometry, x, self.weights, self.unscale, self.bias, self.gain,
            relu=self.relu,
        )  # fmt: skip


def stored_rows(values: Tensor) -> Tensor:
    """One number an output channel, zero where it is padding."""
    return torch.nn.functional.pad(values.float(), (0, padded(len(values)) - len(values)))


def _source(kind: Kind, tile: Tile | Halo) -> tuple[str, tuple[str, ...]]:
    """The kernel file of a tile and its options."""
    if isinstance(tile, Halo):
        return "wgmma/halo.cu", halo.options(kind, tile)
    return "wgmma/conv.cu", options(kind, tile)

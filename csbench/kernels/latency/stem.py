"""The first layer with the max pooling after it: weights and launches of latency/stem.cu."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int, c_longlong, c_void_p
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from csbench.kernels import nvrtc
from csbench.kernels.latency.io import Planes
from csbench.kernels.latency.launch import ACTIVATIONS
from csbench.kernels.latency.pack import Order, as_planes, normalised, padded

_ROWS, _TILE, _THREADS = 64, (4, 7), 256  # of a block: output channels, pooled pixels
_SUMS = (2 * _TILE[0] + 1) * (2 * _TILE[1] + 1) * 68 * 4  # bytes
_MOST = 7  # taps along one side
_POOL = (3, 2, 1)


class _Stem(ctypes.Structure):
    """struct Stem of latency/stem.cu, field by field."""

    _fields_ = [
        *((name, c_void_p) for name in ("x", "weights", "scale", "bias", "out")),
        *((name, c_longlong) for name in
          ("out_plane", "image_step", "channel_step", "row_step", "column_step")),
        ("x_scale", c_float), ("out_scale", c_float),
        *((name, c_int) for name in (
            "height", "width", "conv_height", "conv_width", "out_height", "out_width", "rows",
            "tiles_x", "activation",
        )),
    ]  # fmt: skip


class First(NamedTuple):
    """A convolution of an image's few channels with stride 2; pairs are (vertical, horizontal)."""

    channels: int
    kernel: tuple[int, int]
    padding: tuple[int, int]
    out_size: tuple[int, int]
    activation: str


@dataclass(frozen=True, eq=False)
class Stem:
    """A first convolution, and 3x3 max pooling of stride 2 after it."""

    first: First
    weights: Tensor  # uint8 [64 rows, step, m16, plane, lane, 16 bytes]
    scale: Tensor
    bias: Tensor
    split: bool
    order: Order  # of the output
    scales: tuple[float, float]  # that the halves of input and output are multiplied by

    @property
    def bytes(self) -> int:
        """Weights as stored, with scales and biases."""
        return sum(t.numel() * t.element_size() for t in (self.weights, self.scale, self.bias))

    def __call__(self, x: Tensor) -> Planes:
        """NCHW of any strides, float32 or float16, to planes."""
        (conv_h, conv_w), (n, _, h, w) = self.first.out_size, x.shape
        out_h, out_w = ((size + 1) // 2 for size in (conv_h, conv_w))
        out = Planes.empty(self.split, n, out_h, out_w, self.order, self.scales[1], x.device)
        rows, tiles_x = self.order.stored, -(-out_w // _TILE[1])
        arguments = _Stem(
            *(t.data_ptr() for t in (x, self.weights, self.scale, self.bias, out.data)),
            out.data[0].numel(), *x.stride(), *self.scales,
            h, w, conv_h, conv_w, out_h, out_w, rows, tiles_x, ACTIVATIONS[self.first.activation],
        )  # fmt: skip
        grid = (tiles_x * -(-out_h // _TILE[0]), -(-rows // _ROWS), n)
        module = nvrtc.load(
            "latency/stem.cu", options=stem_options(self.first, self.split, x.dtype)
        )
        shared = _shared(self.first, self.split)
        module.kernel("stem").launch(grid, _THREADS, [arguments], shared=shared, overlap=True)
        return out


def pack_stem(
    first: First, weight: Tensor, bias: Tensor, split: bool, order: Order,
    scales: tuple[float, float], device: str,
) -> Stem:  # fmt: skip
    """Pack the weights for an output in `order`, and the (input, output) scales around the layer.

    K counts kernel rows, then (column, channel) padded to eights; a fragment takes 16 of it.
    """
    weight, scale, bias = normalised(weight, bias, order)
    runs = weight.permute(0, 2, 3, 1).flatten(2)  # [rows, kernel rows, (column, channel)]
    k = pad(runs, (0, -runs.shape[2] % 8)).flatten(1)
    k = pad(k, (0, -k.shape[1] % 16, 0, -len(k) % _ROWS))
    # [64 rows, m16, row half, row, step, k half, column pair, 2]
    words = k.reshape(len(k) // _ROWS, 4, 2, 8, -1, 2, 4, 2)
    planes = as_planes(words, split).permute(1, 5, 2, 0, 4, 7, 6, 3, 8)
    records = planes.contiguous().view(torch.uint8).flatten(4, 5).flatten(5)
    scale, bias = (padded(t.float()).to(device) for t in (scale / scales[0], bias))
    return Stem(first, records.to(device), scale, bias, split, order, scales)


def stem_fits(first: First, window: tuple[int, int, int] | None) -> bool:
    """Whether the kernel takes this layer with a max pooling of (size, stride, padding)."""
    return window == _POOL and first.channels <= 4 and max(first.kernel) <= _MOST


def stem_options(first: First, split: bool, dtype: torch.dtype) -> tuple[str, ...]:
    """The -D options of latency/stem.cu."""
    (kh, kw), (pad_y, pad_x) = first.kernel, first.padding
    values = {
        "SPLIT": split, "HALF_IN": dtype == torch.half, "CHANNELS": first.channels,
        "KERNEL_H": kh, "KERNEL_W": kw, "PAD_Y": pad_y, "PAD_X": pad_x,
    }  # fmt: skip
    return tuple(f"-D{name}={int(value)}" for name, value in values.items())


def _shared(first: First, split: bool) -> int:
    """Bytes of shared memory: weights, the patch of the image, and sums."""
    cin, (kh, kw) = first.channels, first.kernel
    eights = -(-kw * cin // 8)
    columns = -(-(2 * cin * 2 * _TILE[1] + 8 * eights) // cin)
    patch = (2 * 2 * _TILE[0] + kh) * (-(-columns * cin // 8) * 8)
    steps = -(-kh * eights // 2)
    return (2 if split else 1) * (steps * 4 * 512 + 2 * patch) + _SUMS

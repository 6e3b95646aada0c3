"""The mean over all pixels and the linear layer after it: weights and launches of head.cu."""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_longlong, c_void_p
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from csbench.kernels import nvrtc
from csbench.kernels.latency.io import Planes
from csbench.kernels.latency.pack import Order, normalised, padded
from csbench.kernels.latency.plan import SHARED_LIMIT

_PARTS, _ROWS, _THREADS = 8, 64, 512  # blocks along the channels; rows and threads of a block
_STATIC = 16 * _THREADS + 256


class _Head(ctypes.Structure):
    """struct Head of latency/head.cu, field by field."""

    _fields_ = [
        *((name, c_void_p) for name in ("x", "weights", "scale", "bias", "out")),
        ("plane", c_longlong),
        *((name, c_int) for name in ("images", "pixels", "channels", "rows")),
    ]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Head:
    """A global mean and a dense linear layer; planes in, `[images, rows, 1, 1]` out."""

    weights: Tensor  # float32 with two planes, else float16: [64 rows, part, row, channel]
    scale: Tensor
    bias: Tensor
    rows: int

    @property
    def bytes(self) -> int:
        """Weights as stored, with scales and biases."""
        return sum(t.numel() * t.element_size() for t in (self.weights, self.scale, self.bias))

    def __call__(self, x: Planes, dtype: torch.dtype) -> Tensor:
        """Queue both on torch's current stream."""
        half, (n, h, w) = dtype == torch.half, x.size
        device, channels = x.data.device, x.order.stored
        out = torch.empty(
            (n, self.rows, 1, 1), device=device, dtype=torch.half if half else torch.float32
        )
        arguments = _Head(
            *(t.data_ptr() for t in (x.data, self.weights, self.scale, self.bias, out)),
            x.data[0].numel(), n, h * w, channels, self.rows,
        )  # fmt: skip
        module = nvrtc.load("latency/head.cu", options=head_options(x.split, half))
        module.kernel("head").launch(
            _PARTS * len(self.weights), _THREADS, [arguments],
            shared=_shared(channels, x.split, n), overlap=True,
        )  # fmt: skip
        return out.to(dtype)


def pack_head(
    weight: Tensor, bias: Tensor, split: bool, order: Order, x_scale: float, device: str
) -> Head:
    """Pack the weights for planes in `order` whose halves are multiplied by `x_scale`."""
    weight, scale, bias = normalised(weight, bias, None)
    rows = weight.flatten(1)[:, order.channel.clamp_min(0)] * (order.channel >= 0)
    rows = pad(rows, (0, 0, 0, -len(rows) % _ROWS)).view(-1, _ROWS, _PARTS, order.stored // _PARTS)
    blocked = rows.transpose(1, 2).contiguous().to(torch.float32 if split else torch.half)
    scale, bias = (padded(t.float()).to(device) for t in (scale / x_scale, bias))
    return Head(blocked.to(device), scale, bias, len(weight))


def head_fits(split: bool, order: Order, images: int) -> bool:
    """Whether the kernel takes the mean of planes in `order`: what it needs at once fits."""
    return order.stored % 64 == 0 and _STATIC + _shared(order.stored, split, images) <= SHARED_LIMIT


def head_options(split: bool, half: bool) -> tuple[str, ...]:
    """The -D options of latency/head.cu."""
    return f"-DSPLIT={int(split)}", f"-DHALF_OUT={int(half)}"


def _shared(channels: int, split: bool, images: int) -> int:
    """Bytes of shared memory: weights, means, and the sums of every part."""
    part = channels // _PARTS
    return _ROWS * part * (4 if split else 2) + 4 * part + 4 * images * _PARTS * _ROWS

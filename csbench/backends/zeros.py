"""Whether what is called sparse leaves its zeros out: infinity times zero tells.

Where one input is infinite and the weight that would meet it is zero, a kernel that multiplies the
zeros gives NaN, and one that leaves them out gives what the other inputs give. A sparse kernel may
meet some zeros: blocks have holes, and what fills a fixed number of slots may be a zero that meets
the same one of each four channels in every row. A dense one meets those of every channel, so it is
called dense only where each of several channels, spread over all, meets nearly all of its zeros.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from itertools import chain, islice

import torch
import torch.nn.functional as F  # noqa: N812
from msgspec.structs import replace
from torch import Tensor

from csbench.backends.base import TORCH_DTYPE, NetworkBackend
from csbench.core.case import Case
from csbench.graph.program import Conv, Program, Step

_PROBES = 8  # input channels of a layer that are tried
_IMAGE = 3  # channels of an image; in a network each of them can stand for two
_ALL = 0.9  # share of a channel's zeros above which no pattern is at work
_GOLDEN = 0.618  # multiples of it spread evenly over [0, 1), however many there are
# A pixel and a weight whose product is beyond a precision's range, and neither of them is.
_PIXEL = 1e3
_BEYOND = {"fp32": 1e36, "tf32": 1e36, "fp16": 1e3, "bf16": 1e36}


def multiplies_zeros(run: Callable[..., Tensor], conv: Conv, case: Case) -> bool:
    """Whether nearly all zeros of a layer's weight meet the input in `run`.

    False where that cannot be told: grouped convolutions, and outputs that an activation clamps.
    """
    still = _activated(conv.bias, conv)[None, :, None, None]
    seen = (still > 0) | (conv.activation == "none")

    def meets(channel: int) -> bool:
        x = _one_pixel(conv, channel)
        watch = _only_zeros_meet(x, conv) & seen
        out = run(*_inputs(x, conv, case))[:1].float().cpu()
        return _nearly_all(~torch.isclose(out, still, rtol=0.02, atol=1e-6), watch)

    channels = list(islice(_telling(conv, seen), _PROBES))
    return bool(channels) and all(meets(channel) for channel in channels)


def network_multiplies_zeros(backend: NetworkBackend, conv: Conv, case: Case) -> bool:
    """The same of a layer on a backend's path for whole networks, which shows no layer's input.

    The layer stands behind a 1x1 convolution that turns a large pixel into an infinite value of
    one channel. False where that cannot be told, or the path does not take such a network.
    """
    channels = list(islice(_telling(conv, torch.tensor(True)), 2 * _IMAGE))
    if not channels:
        return False
    program = _probe(conv, channels, case.dtype)
    try:
        whole = backend.lower_network(program, replace(case, input=program.input_size))
    except Exception:  # third-party code may know no network but those that it was made for
        whole = None
    said = {} if whole is None else {layer.name: layer.ran for layer in whole.layers}
    if whole is None or said.get(conv.name) != "sparse":
        return False
    for i, channel in enumerate(channels):
        pixel = _one_pixel(conv, channel)
        image = torch.zeros(case.batch, *program.input_size)
        image[:, i // 2] = _PIXEL * _sign(i) * pixel[0, channel]
        out = whole(image.to(case.device, TORCH_DTYPE[case.dtype]))[:1].float().cpu()
        if not _nearly_all(~out.isfinite(), _only_zeros_meet(pixel, conv)):
            return False
    return True


def _telling(conv: Conv, seen: Tensor) -> Iterator[int]:
    """Input channels with zeros whose effect on the output would be `seen`, the most spread first.

    Neighbours alternate with channels far apart. Those lie an odd number apart, so that four of
    them have every place among four neighbours, and one is in each quarter.
    """
    total = 0 if conv.groups > 1 else conv.weight.shape[1]
    first, far = total // 12 * 4, int(_GOLDEN * total) | 1
    spread = ((first + i * far) % total for i in range(total))
    near = (first + i for i in range(1, min(4, total)))
    alternating = chain.from_iterable(zip(islice(spread, 3), near, strict=False))
    zeros = (conv.weight == 0).any(0).flatten(1).any(1).tolist()
    for channel in dict.fromkeys([*alternating, *spread, *range(total)]):
        if zeros[channel] and (_only_zeros_meet(_one_pixel(conv, channel), conv) & seen).any():
            yield channel


def _nearly_all(met: Tensor, watch: Tensor) -> bool:
    return int((met & watch).sum()) > _ALL * int(watch.sum())


def _one_pixel(conv: Conv, channel: int) -> Tensor:
    """One image of zeros with a one at a pixel that the strides do not skip."""
    x = torch.zeros(1, *conv.input_size)
    row, column = (
        size // 2 - size // 2 % step
        for size, step in zip(conv.input_size[1:], conv.stride, strict=True)
    )
    x[0, channel, row, column] = 1
    return x


def _only_zeros_meet(x: Tensor, conv: Conv) -> Tensor:
    """Where a dense kernel's output would read the pixel, though all weights there are zero."""
    zero = conv.weight == 0
    touched, kept = (_convolved(x, w, conv) > 0 for w in (torch.ones_like(zero), ~zero))
    return touched & ~kept


def _convolved(x: Tensor, weight: Tensor, conv: Conv) -> Tensor:
    return F.conv2d(x, weight.float(), None, conv.stride, conv.padding, conv.dilation)


def _activated(y: Tensor, conv: Conv) -> Tensor:
    if conv.activation == "none":
        return y
    return y.clamp(0, 6 if conv.activation == "relu6" else None)


def _inputs(x: Tensor, conv: Conv, case: Case) -> tuple[Tensor, ...]:
    """The image with infinity for one, as the case's whole batch, and a residual of zeros."""
    infinite = torch.where(x > 0, torch.inf, 0.0).expand(case.batch, -1, -1, -1)
    residual = torch.zeros(case.batch, *conv.output_size)
    chosen = (infinite, residual) if conv.residual else (infinite,)
    return tuple(t.contiguous().to(case.device, TORCH_DTYPE[case.dtype]) for t in chosen)


def _probe(conv: Conv, channels: list[int], dtype: str) -> Program:
    """Image -> 1x1 convolution and ReLU -> the layer without its epilogue.

    A large pixel of image channel i makes `channels[2 * i]` infinite, a large negative one the
    next; all others are one, or zero where the sign is wrong.
    """
    total, *size = conv.input_size
    weight = torch.zeros(total, _IMAGE, 1, 1)
    for i, channel in enumerate(channels):
        weight[channel, i // 2] = _sign(i) * _BEYOND[dtype]
    before = Conv(
        "before", weight, torch.ones(total), (1, 1), (0, 0), (1, 1), 1, "relu", False,
        (_IMAGE, size[0], size[1]), conv.input_size,
    )  # fmt: skip
    bare = dataclasses.replace(conv, activation="none", residual=False)
    steps = (Step(before, (0,), 1, before.name), Step(bare, (1,), 2, conv.name))
    return Program("probe", before.input_size, steps, 2)


def _sign(i: int) -> int:
    return -1 if i % 2 else 1

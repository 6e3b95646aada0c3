"""Whether what is called sparse leaves its zeros out: infinity times zero tells.

Where one input is infinite and the weight that would meet it is zero, a kernel that multiplies the
zeros gives NaN, and one that leaves them out gives what the other inputs give. A kernel may meet
some zeros (padding, blocks with holes); one that meets nearly all of them runs dense.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from msgspec.structs import replace
from torch import Tensor

from csbench.backends.base import TORCH_DTYPE, NetworkBackend
from csbench.core.case import Case
from csbench.graph.program import Conv, Program, Step

_CHANNELS = 4  # input channels that are tried, those with most zeros
_ALL = 0.9  # share of the zeros above which no pattern is at work
# A pixel and a weight whose product is beyond a precision's range, and neither of them is.
_PIXEL = 1e3
_BEYOND = {"fp32": 1e36, "tf32": 1e36, "fp16": 1e3, "bf16": 1e36}


def multiplies_zeros(run: Callable[..., Tensor], conv: Conv, case: Case) -> bool:
    """Whether nearly all zeros of a layer's weight meet the input in `run`.

    False where that cannot be told: grouped convolutions, and outputs that an activation clamps.
    """
    if conv.groups > 1:
        return False
    met = watched = 0
    for channel in _emptiest(conv):
        x = _one_pixel(conv, channel)
        still = _activated(conv.bias, conv)[None, :, None, None]
        watch = _only_zeros_meet(x, conv) & ((still > 0) | (conv.activation == "none"))
        out = run(*_inputs(x, conv, case))[:1].float().cpu()
        met += int((~torch.isclose(out, still, rtol=0.02, atol=1e-6) & watch).sum())
        watched += int(watch.sum())
    return watched > 0 and met > _ALL * watched


def network_multiplies_zeros(backend: NetworkBackend, conv: Conv, case: Case) -> bool:
    """The same of a layer on a backend's path for whole networks, which shows no layer's input.

    The layer stands behind a 1x1 convolution that turns a large pixel into an infinite value of
    one channel. False where that cannot be told, or the path does not take such a network.
    """
    channel = next(iter(_emptiest(conv)), None)
    if conv.groups > 1 or channel is None:
        return False
    program = _probe(conv, channel, case.dtype)
    try:
        whole = backend.lower_network(program, replace(case, input=program.input_size))
    except Exception:  # third-party code may know no network but those that it was made for
        whole = None
    said = {} if whole is None else {layer.name: layer.ran for layer in whole.layers}
    if whole is None or said.get(conv.name) != "sparse":
        return False
    pixel = _one_pixel(conv, channel)
    image = _PIXEL * pixel[:, channel : channel + 1]
    image = F.pad(image, (0, 0, 0, 0, 0, 2)).expand(case.batch, -1, -1, -1)
    out = whole(image.contiguous().to(case.device, TORCH_DTYPE[case.dtype]))[:1].float().cpu()
    watch = _only_zeros_meet(pixel, conv)
    return bool(watch.any()) and int((~out.isfinite() & watch).sum()) > _ALL * int(watch.sum())


def _emptiest(conv: Conv) -> list[int]:
    """The input channels with most zeros."""
    zeros = (conv.weight == 0).sum((0, 2, 3))
    found = zeros.topk(min(_CHANNELS, len(zeros))).indices.tolist()
    return [channel for channel in found if zeros[channel]]


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


def _probe(conv: Conv, channel: int, dtype: str) -> Program:
    """Image -> 1x1 convolution, all ones but for one channel -> the layer without its epilogue."""
    channels, *size = conv.input_size
    weight = torch.zeros(channels, 3, 1, 1)
    weight[channel, 0] = _BEYOND[dtype]
    before = Conv(
        "before", weight, torch.ones(channels), (1, 1), (0, 0), (1, 1), 1, "relu", False,
        (3, size[0], size[1]), conv.input_size,
    )  # fmt: skip
    bare = dataclasses.replace(conv, activation="none", residual=False)
    steps = (Step(before, (0,), 1, before.name), Step(bare, (1,), 2, conv.name))
    return Program("probe", before.input_size, steps, 2)

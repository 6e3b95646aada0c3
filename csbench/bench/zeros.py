"""Whether a layer that is called sparse leaves its zeros out: infinity times zero tells.

Where one input is infinite and the weight that would meet it is zero, a kernel that multiplies the
zeros gives NaN, and one that leaves them out gives what the other inputs give. A kernel may meet
some zeros (padding, blocks with holes); one that meets all of them runs dense.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from csbench.backends.base import TORCH_DTYPE
from csbench.core.case import Case
from csbench.graph.program import Conv

_CHANNELS = 4  # input channels that are tried, those with most zeros
_ALL = 0.9  # share of the zeros above which no pattern is at work


def multiplies_zeros(run: Callable[..., Tensor], conv: Conv, case: Case) -> bool:
    """Whether nearly all zeros of a layer's weight meet the input in `run`.

    False where that cannot be told: grouped convolutions, and outputs that an activation clamps.
    """
    if conv.groups > 1:
        return False
    zero = conv.weight == 0
    met = watched = 0
    for channel in zero.sum((0, 2, 3)).topk(min(_CHANNELS, zero.shape[1])).indices.tolist():
        x = _one_pixel(conv, channel)
        touched, kept = (_convolved(x, w, conv) > 0 for w in (torch.ones_like(zero), ~zero))
        still = _activated(conv.bias, conv)[None, :, None, None].expand(touched.shape)
        watch = touched & ~kept & ((still > 0) | (conv.activation == "none"))
        out = run(*_inputs(x, conv, case))[:1].float().cpu()
        met += int((~torch.isclose(out, still, rtol=0.02, atol=1e-6) & watch).sum())
        watched += int(watch.sum())
    return watched > 0 and met > _ALL * watched


def _one_pixel(conv: Conv, channel: int) -> Tensor:
    """One image of zeros with a one at a pixel that the strides do not skip."""
    x = torch.zeros(1, *conv.input_size)
    row, column = (
        size // 2 - size // 2 % step
        for size, step in zip(conv.input_size[1:], conv.stride, strict=True)
    )
    x[0, channel, row, column] = 1
    return x


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

"""Bytes of activations: what a layer needs, and what no cache can keep from crossing memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from csbench.backends.base import TORCH_DTYPE
from csbench.core.case import Case
from csbench.core.record import LayerReport
from csbench.graph.program import Conv, Program


def least_bytes(
    subject: Program | Conv,
    layers: Sequence[LayerReport],
    case: Case,
    *,
    cold: bool,
    turns: int,
    cache_bytes: int,
) -> int:
    """Bytes that no run of a network or a layer can spare, however its cache keeps things.

    With cold caches the input and the weights come from memory. With warm ones `turns` inputs
    rotate: a cache holds at most its own size of them from one round to the next, so the rest is
    read again. Of an output only what exceeds the cache is sure to leave it while the clock runs.
    """
    read, written = _values(subject)
    # tf32 has the precision of a half, and may be kept as one.
    each = case.batch * (2 if case.dtype == "tf32" else TORCH_DTYPE[case.dtype].itemsize)
    kept = 0 if cold else cache_bytes // turns
    weights = sum(layer.bytes for layer in layers) if cold else 0
    return max(0, each * read - kept) + weights + max(0, each * written - cache_bytes)


def activation_bytes(conv: Conv, case: Case) -> int:
    """Bytes of what a layer needs of its input, of its output and residual, each once."""
    values = _read(conv) + math.prod(conv.output_size) * (1 + conv.residual)
    return case.batch * values * TORCH_DTYPE[case.dtype].itemsize


def _values(subject: Program | Conv) -> tuple[int, int]:
    """Numbers that one image makes a network or a layer read and write."""
    if isinstance(subject, Program):
        return math.prod(subject.input_size), 0  # classes are few
    written = math.prod(subject.output_size)
    return _read(subject) + written * subject.residual, written


def _read(conv: Conv) -> int:
    """Numbers of one image's input that a weight other than zero meets.

    A window narrower than its stride steps over pixels; a sparse layer may need no number of a
    whole channel.
    """
    used = (conv.weight != 0).flatten(2).any(2)  # [Cout, Cin / groups]
    channels = int(torch.stack(used.chunk(conv.groups)).any(1).sum())
    return channels * math.prod(_touched(conv, axis) for axis in (0, 1))


def _touched(conv: Conv, axis: int) -> int:
    """Rows or columns of the input that some window reads."""
    size, windows, width = (
        of[axis] for of in (conv.input_size[1:], conv.output_size[1:], conv.weight.shape[2:])
    )
    stride, padding, dilation = (of[axis] for of in (conv.stride, conv.padding, conv.dilation))
    places = {i * stride - padding + k * dilation for i in range(windows) for k in range(width)}
    return len(places & set(range(size)))

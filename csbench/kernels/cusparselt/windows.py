"""Launches of windows.cu: the pixels that a convolution reads, side by side."""

from __future__ import annotations

import ctypes
from ctypes import c_int
from typing import NamedTuple

import torch
from torch import Tensor

from csbench.kernels import nvrtc

PIECE = 16  # bytes that are copied at a time: channels must be whole pieces
_THREADS = 256
_MAX_LANES = 32

Pair = tuple[int, int]


class Windows(NamedTuple):
    """Which pixels go side by side: a window of `taps` for each pixel of an output of `size`.

    Pairs are (vertical, horizontal); `rows` counts the matrix's rows, padding at its end included.
    """

    taps: Pair
    size: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    rows: int


class _Windows(ctypes.Structure):
    _fields_ = [
        (name, c_int) for name in (
            "images", "height", "width", "out_height", "out_width", "pixels", "stride_y",
            "stride_x", "pad_y", "pad_x", "dilation_y", "dilation_x", "pieces", "lanes_log",
        )
    ]  # fmt: skip


def side_by_side(x: Tensor, w: Windows) -> Tensor:
    """[rows, taps * channels] of a contiguous NHWC tensor whose channels are whole pieces."""
    images, height, width, channels = x.shape
    out = torch.empty(w.rows, w.taps[0] * w.taps[1] * channels, dtype=x.dtype, device=x.device)
    pieces = channels * x.element_size() // PIECE
    lanes_log = min(_MAX_LANES, pieces).bit_length() - 1
    arguments = _Windows(
        images, height, width, *w.size, w.rows, *w.stride, *w.padding, *w.dilation, pieces,
        lanes_log,
    )  # fmt: skip
    blocks = -(-(w.rows << lanes_log) // _THREADS)
    _kernel(w.taps).launch(blocks, _THREADS, [x, out, arguments])
    return out


def options(taps: Pair) -> tuple[str, ...]:
    """The compiler's -D options."""
    return f"-DTAPS_H={taps[0]}", f"-DTAPS_W={taps[1]}"


def _kernel(taps: Pair) -> nvrtc.Kernel:
    return nvrtc.load("cusparselt/windows.cu", options=options(taps)).kernel("windows")

"""Which torch operations of a program are poolings that kernels compute, alone or with a stem."""

from __future__ import annotations

from typing import Any

from torch import nn

from csbench.graph.operation import Call, Leaf, Operation, Slot
from csbench.graph.program import Conv
from csbench.kernels.wgmma.launch import Geometry, Window
from csbench.kernels.wgmma.stem import STEM_POOL, stem_fits, stem_pool_fits
from csbench.kernels.wgmma.tile import Kind


def _called(op: Any) -> tuple[Any, Call] | None:
    """The module or function of an operation that does nothing but call it on its one input."""
    if not isinstance(op, Operation) or not op.root.arguments:
        return None
    if op.root.arguments[0] != Slot(0):
        return None
    function = op.root.function
    return (function.module if isinstance(function, Leaf) else function), op.root


def max_window(op: Any) -> Window | None:
    """The window where `op` is a square max pooling that the kernel computes."""
    called = _called(op)
    if called is None or not isinstance(called[0], nn.MaxPool2d):
        return None
    m = called[0]
    numbers = [n if isinstance(n, int) else n[0] for n in (m.kernel_size, m.stride, m.padding)]
    pairs = [n for n in (m.kernel_size, m.stride, m.padding) if not isinstance(n, int)]
    if any(a != b for a, b in pairs) or m.dilation not in (1, (1, 1)) or m.ceil_mode:
        return None
    return Window(*numbers)


def is_global_mean(op: Any) -> bool:
    """Whether `op` is the mean over all pixels, as a 1x1 image."""
    called = _called(op)
    return (
        called is not None
        and isinstance(called[0], nn.AdaptiveAvgPool2d)
        and called[0].output_size in (1, (1, 1))
    )


def is_pooling(op: Any) -> bool:
    """Whether `op` is either of them."""
    return max_window(op) is not None or is_global_mean(op)


def stem_takes(conv: Conv, shape: Geometry, kind: Kind, following: Any) -> str | None:
    """Which stem kernel takes a first convolution: "stem_pool" with the pooling after it, "stem".

    `following` is the operation that alone reads the result. None where neither does.
    """
    if conv.groups != 1 or conv.residual or conv.activation == "relu6":
        return None
    if max_window(following) == STEM_POOL and stem_pool_fits(kind, shape):
        return "stem_pool"
    return "stem" if stem_fits(kind, shape) else None

"""`cs` on a CPU: kernels/cs.cpp, pixels on the vector lanes, a broadcast weight for each load."""

from __future__ import annotations

from ctypes import byref, c_int32, c_void_p
from functools import cache

import torch
from torch import Tensor

from csbench.backends.base import LoweredConv
from csbench.backends.cpu_native import Library, NativeConv, geometry
from csbench.backends.cpu_native import why_not as why_not
from csbench.core.case import Case
from csbench.graph.program import Conv
from csbench.kernels import build
from csbench.sparse.layout import group_geometry


def missing() -> str | None:
    """What keeps this kernel from running here, and how to get it."""
    return build.missing()


def lower(conv: Conv, case: Case) -> LoweredConv:
    """The convolution by the compiled kernel; raises BackendError where it cannot be built."""
    library = _library()
    order, unit = packed_order(conv)
    weight, bias = conv.weight.float().contiguous(), conv.bias.float().contiguous()
    create = library.function("create", c_void_p, *[c_void_p] * 4, c_int32)
    plan = create(
        byref(geometry(conv, case)), weight.data_ptr(), bias.data_ptr(), order.data_ptr(), unit
    )
    return NativeConv(library, plan, conv, case).lowered()


def packed_order(conv: Conv) -> tuple[Tensor, int]:
    """The input channel at each packed position, int32 `[Cin]`, and the size of a group.

    The members of a group stand side by side, so that chunks of whole groups give every output
    channel equally many weights.
    """
    cin = conv.input_size[0]
    if conv.pattern is None or not conv.pattern.parameters:
        return torch.arange(cin, dtype=torch.int32), 1
    _, m, span = group_geometry(conv.pattern, cin)
    channels = torch.arange(cin, dtype=torch.int32).reshape(cin // span, m, span // m)
    return channels.transpose(1, 2).reshape(-1).contiguous(), m


@cache
def _library() -> Library:
    return Library("cs")

"""`csr` on a CPU: kernels/cpu/cs.cpp, whose lists of kept weights may hold any channel."""

from __future__ import annotations

from ctypes import byref, c_int32, c_void_p
from functools import cache

import torch

from csbench.backends.base import LoweredConv
from csbench.backends.cpu.native import Library, NativeConv, geometry
from csbench.backends.cpu.native import why_not as why_not
from csbench.core.case import Case
from csbench.graph.program import Conv
from csbench.kernels import build


def missing() -> str | None:
    """What keeps this kernel from running here, and how to get it."""
    return build.missing()


def lower(conv: Conv, case: Case) -> LoweredConv:
    """The convolution with pixels on the lanes; raises BackendError where it cannot be built."""
    library = _library()
    weight, bias = conv.weight.float().contiguous(), conv.bias.float().contiguous()
    order = torch.arange(conv.input_size[0], dtype=torch.int32)
    create = library.function("create", c_void_p, *[c_void_p] * 4, c_int32)
    plan = create(
        byref(geometry(conv, case)), weight.data_ptr(), bias.data_ptr(), order.data_ptr(), 1
    )  # channels in their own order, and chunks may end at any of them
    return NativeConv(library, plan, conv, case).lowered(
        "{1} vectors of {0} pixels, channels in {2} chunks"
    )


@cache
def _library() -> Library:
    return Library("cs")

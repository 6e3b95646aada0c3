"""`cs` on a CPU by two kernels: output channels on the vector lanes (AVX-512), else pixels.

kernels/cpu/cs_lanes.cpp picks each lane's channel by a permutation instruction and works on
channels_last; cs.cpp beside it multiplies contiguous pixels by one weight, on any CPU for any M.
"""

from __future__ import annotations

from ctypes import byref, c_int32, c_void_p
from functools import cache

import torch
from torch import Tensor

from csbench.backends.base import LoweredConv
from csbench.backends.cpu.native import Library, NativeConv, geometry
from csbench.backends.cpu.native import why_not as why_not
from csbench.core.case import Case
from csbench.graph.program import Conv
from csbench.kernels import build
from csbench.sparse.layout import group_geometry

LANES = 16  # floats in a vector of AVX-512: a group must lie within one


def missing() -> str | None:
    """What keeps these kernels from running here, and how to get it."""
    return build.missing()


def lower(conv: Conv, case: Case) -> LoweredConv:
    """The convolution by the better kernel; raises BackendError where none can be built."""
    m, _ = groups_of(conv)
    on_lanes = LANES % m == 0 and conv.input_size[0] % LANES == 0 and has_lanes()
    return lower_lanes(conv, case) if on_lanes else lower_pixels(conv, case)


def lower_pixels(conv: Conv, case: Case) -> LoweredConv:
    """The convolution with pixels on the lanes."""
    library = _library("cs")
    m, span = groups_of(conv)
    order = packed_order(conv.input_size[0], m, span)
    weight, bias = conv.weight.float().contiguous(), conv.bias.float().contiguous()
    create = library.function("create", c_void_p, *[c_void_p] * 4, c_int32)
    plan = create(
        byref(geometry(conv, case)), weight.data_ptr(), bias.data_ptr(), order.data_ptr(), m
    )
    return NativeConv(library, plan, conv, case).lowered(
        "{1} vectors of {0} pixels, channels in {2} chunks"
    )


def lower_lanes(conv: Conv, case: Case) -> LoweredConv:
    """The convolution with output channels on the lanes; M divides 16, and 16 divides Cin."""
    library = _library("cs_lanes")
    m, span = groups_of(conv)
    order = packed_order(conv.input_size[0], m, span)
    weight, bias = conv.weight.float().contiguous(), conv.bias.float().contiguous()
    create = library.function("create", c_void_p, *[c_void_p] * 4, c_int32, c_int32)
    plan = create(
        byref(geometry(conv, case)), weight.data_ptr(), bias.data_ptr(), order.data_ptr(), m,
        span == conv.input_size[0],
    )  # fmt: skip
    return NativeConv(library, plan, conv, case, torch.channels_last).lowered(
        "{1} pixels x {2} output channels, candidates picked on {0} lanes"
    )


def groups_of(conv: Conv) -> tuple[int, int]:
    """(M, span) of the layer's pattern; (1, Cin) without one."""
    cin = conv.input_size[0]
    if conv.pattern is None or not conv.pattern.parameters:
        return 1, cin
    _, m, span = group_geometry(conv.pattern, cin)
    return m, span


def packed_order(cin: int, m: int, span: int) -> Tensor:
    """The input channel at each packed position, int32 `[Cin]`: members of a group side by side."""
    channels = torch.arange(cin, dtype=torch.int32).reshape(cin // span, m, span // m)
    return channels.transpose(1, 2).reshape(-1).contiguous()


def has_lanes() -> bool:
    """Whether the compiler and the CPU have AVX-512."""
    return bool(_library("cs_lanes").function("available", c_int32)())


@cache
def _library(kind: str) -> Library:
    return Library(kind)

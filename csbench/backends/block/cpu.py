"""`block-original` on a CPU: kernels/cpu/block.cpp, small dense products over the kept blocks."""

from __future__ import annotations

from ctypes import byref, c_int32, c_void_p
from functools import cache

from csbench.backends.base import LoweredConv
from csbench.backends.cpu.native import Library, NativeConv, geometry
from csbench.backends.cpu.native import why_not as why_not
from csbench.core.case import Case
from csbench.graph.program import Conv
from csbench.kernels import build
from csbench.sparse.formats import BlockPacked


def missing() -> str | None:
    """What keeps this kernel from running here, and how to get it."""
    return build.missing()


def lower(conv: Conv, case: Case) -> LoweredConv:
    """The convolution by the compiled kernel; raises BackendError where it cannot be built."""
    library = _library()
    packed = BlockPacked.pack(conv.weight.float(), block_of(conv))
    values, bias = packed.values.contiguous(), conv.bias.float().contiguous()
    create = library.function("create", c_void_p, c_void_p, c_int32, c_int32, *[c_void_p] * 4)
    plan = create(
        byref(geometry(conv, case)), *packed.block, values.data_ptr(),
        packed.row_offsets.data_ptr(), packed.columns.data_ptr(), bias.data_ptr(),
    )  # fmt: skip
    return NativeConv(library, plan, conv, case).lowered("8 channels x {1} vectors of {0} pixels")


def block_of(conv: Conv) -> tuple[int, int]:
    """The block shape (output, input channels) of the layer's pattern; 32x32 by default."""
    parameters = conv.pattern.parameters if conv.pattern else ()
    return (parameters[0], parameters[1]) if len(parameters) == 2 else (32, 32)


@cache
def _library() -> Library:
    return Library("block")

"""What the compiled convolutions of the CPU share: their geometry, limits, and the call."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from ctypes import byref, c_int32, c_int64, c_void_p
from functools import cached_property, partial

import torch
from torch import Tensor

from csbench.backends.base import Inside, LoweredConv, alike, as_it_is
from csbench.core.case import Case
from csbench.errors import BackendError
from csbench.graph.program import Conv
from csbench.kernels import build

ACTIVATIONS = {"none": 0, "relu": 1, "relu6": 2}
MAX_KERNEL_ROWS = 64  # Space::class_of in pixels.h
MAX_OFFSET = 2**31  # bytes, from the first to the last channel of an image


class Geometry(ctypes.Structure):
    """csb::Geometry of pixels.h."""

    _fields_ = [
        (name, c_int32)
        for name in (
            "batch", "cin", "height", "width", "cout", "kh", "kw", "sh", "sw", "ph", "pw", "dh",
            "dw", "oh", "ow", "activation", "tile", "l1_bytes", "l2_bytes", "narrow",
        )
    ]  # fmt: skip


def geometry(conv: Conv, case: Case) -> Geometry:
    """The layer's sizes as the kernels take them."""
    cin, height, width = conv.input_size
    cout, oh, ow = conv.output_size
    _, _, kh, kw = conv.weight.shape
    return Geometry(
        case.batch, cin, height, width, cout, kh, kw, *conv.stride, *conv.padding, *conv.dilation,
        oh, ow, ACTIVATIONS[conv.activation],
    )  # fmt: skip


def why_not(conv: Conv, case: Case) -> str | None:
    """The reason no compiled CPU kernel takes this layer; None when one can."""
    cin, height, width = conv.input_size
    _, _, kh, kw = conv.weight.shape
    if case.dtype != "fp32":
        return f"the CPU kernel computes in fp32, not {case.dtype}"
    if conv.groups != 1:
        return f"the CPU kernel takes no grouped convolutions; this layer has {conv.groups} groups"
    if kh > MAX_KERNEL_ROWS:
        return f"the CPU kernel takes up to {MAX_KERNEL_ROWS} kernel rows; this layer has {kh}"
    padded = (height + 2 * conv.padding[0]) * (width + 2 * conv.padding[1] + 64)
    if 4 * cin * kw * padded >= MAX_OFFSET:
        return f"the CPU kernel addresses 2 GiB of an image; this layer has {cin}x{height}x{width}"
    return None


class Library:
    """The functions `KIND_run`, `_destroy`, `_bytes` and `_describe` of a compiled source."""

    def __init__(self, kind: str) -> None:
        self.kind, self.functions = kind, build.load(f"{kind}.cpp")

    @cached_property
    def run(self) -> Callable[..., int]:
        """(plan, x, residual or None, out, threads)."""
        return self.function("run", None, *[c_void_p] * 4, c_int32)

    @cached_property
    def destroy(self) -> Callable[..., int]:
        """(plan)."""
        return self.function("destroy", None, c_void_p)

    def bytes(self, plan: int) -> int:
        """Values and indices as the plan stores them."""
        return self.function("bytes", c_int64, c_void_p)(plan)

    def describe(self, plan: int) -> tuple[int, ...]:
        """Lanes, tile, chunks or channels, input in place, floats of workspace for a thread."""
        found = (c_int32 * 5)()
        self.function("describe", None, c_void_p, c_void_p)(plan, byref(found))
        return tuple(found)

    def function(self, name: str, result: type | None, *arguments: type) -> Callable[..., int]:
        """A function of the library with its types set."""
        found = getattr(self.functions, f"{self.kind}_{name}")
        found.restype, found.argtypes = result, arguments
        return found  # type: ignore[no-any-return]


class NativeConv:
    """A plan of a library for one layer, called as `(x, residual=None) -> Tensor`.

    x and residual are float32 of the layer's sizes in any strides; the kernel works on, and the
    result comes in, one memory format.
    """

    def __init__(
        self, library: Library, plan: int, conv: Conv, case: Case,
        memory: torch.memory_format = torch.contiguous_format,
    ) -> None:  # fmt: skip
        self._run, self._plan = library.run, plan
        self._input = (case.batch, *conv.input_size)
        self._output = (case.batch, *conv.output_size)
        self._library, self._memory = library, memory
        self._enter = alike(partial(Tensor.contiguous, memory_format=memory))
        weakref.finalize(self, library.destroy, plan)

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if x.shape != self._input:
            raise BackendError(
                f"the layer was lowered for an input of {list(self._input)}, not {list(x.shape)}"
            )
        x, *others = self._enter(x, residual)
        out = torch.empty(self._output, memory_format=self._memory)
        added = others[0].data_ptr() if others else None
        self._run(self._plan, x.data_ptr(), added, out.data_ptr(), torch.get_num_threads())
        return out

    def lowered(self, algorithm: str) -> LoweredConv:
        """The convolution with the bytes that its plan has; `{}`s are what `describe` gives."""
        lanes, tile, chunks, in_place, scratch = self._library.describe(self._plan)
        return LoweredConv(
            run=self,
            inside=Inside(self._enter, self, as_it_is),
            weight_bytes=self._library.bytes(self._plan),
            workspace_bytes=4 * scratch * torch.get_num_threads(),
            algorithm=algorithm.format(lanes, tile, chunks)
            + (", input in place" if in_place else ", input packed"),
        )

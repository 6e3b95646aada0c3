"""Kernels loaded and launched through the CUDA driver, by ctypes.

Launches need attributes (clusters, programmatic dependent launch) that the Python wrappers of
CUDA expose only in part.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from ctypes import byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_void_p
from typing import Any

import torch
from torch import Tensor

from csbench.errors import BackendError

Argument = Tensor | int | float | None | ctypes.Structure | ctypes.Array | Any  # type: ignore[type-arg]
Dim = int | Sequence[int]

# From cuda.h: CUfunction_attribute and CUlaunchAttributeID.
_STATIC_SHARED, _MAX_DYNAMIC_SHARED, _NON_PORTABLE_CLUSTER = 1, 8, 14
_COOPERATIVE, _CLUSTER, _PROGRAMMATIC = 2, 4, 6


class _Attribute(ctypes.Structure):
    """CUlaunchAttribute: an identity, and a union of 64 bytes read here as words."""

    _fields_ = [("id", c_int), ("pad", c_int), ("value", c_uint * 16)]


class _Config(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = [
        ("grid", c_uint * 3), ("block", c_uint * 3), ("shared", c_uint), ("stream", c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)), ("count", c_uint),
    ]  # fmt: skip


class Kernel:
    """One `__global__` function on one device."""

    def __init__(self, module: Module, name: str) -> None:
        self.module, self.name = module, name
        self._handle = c_void_p()
        _check(
            driver().cuModuleGetFunction(byref(self._handle), module.handle, name.encode()),
            f"looking up kernel '{name}'",
        )
        # Without a higher limit, dynamic and static shared memory together get 48 KiB.
        self._shared = 48 * 1024 - self.attribute(_STATIC_SHARED)

    def prepare(self, *, shared: int = 0, large_clusters: bool = False) -> Kernel:
        """Raise the limits that launches need: dynamic shared memory, clusters above 8 blocks."""
        if shared > self._shared:
            self._set(_MAX_DYNAMIC_SHARED, shared)
            self._shared = shared
        if large_clusters:
            self._set(_NON_PORTABLE_CLUSTER, 1)
        return self

    def attribute(self, number: int) -> int:
        """A CUfunction_attribute: 1 static shared memory, 3 local memory (spills), 4 registers."""
        value = c_int()
        _check(
            driver().cuFuncGetAttribute(byref(value), number, self._handle),
            f"reading attribute {number} of kernel '{self.name}'",
        )
        return value.value

    def launch(
        self,
        grid: Dim,
        block: Dim,
        arguments: Sequence[Argument],
        *,
        shared: int = 0,
        cluster: Dim | None = None,
        overlap: bool = False,
        cooperative: bool = False,
    ) -> None:
        """Launch on torch's current stream; safe while a CUDA graph is captured.

        A tensor passes its pointer, None a null pointer, an int 32 bits, a float 32 bits, and a
        ctypes value itself (c_int64, a Structure by value). `overlap` is programmatic dependent
        launch: the kernel may start before its predecessor ends, so it must execute
        griddepcontrol.wait before it touches anything that another kernel writes.
        """
        if shared > self._shared:
            self.prepare(shared=shared)
        attributes = (_Attribute * 3)()
        count = 0
        if cluster is not None:
            attributes[count].id = _CLUSTER
            attributes[count].value[:3] = _three(cluster)
            count += 1
        if overlap:
            attributes[count].id, attributes[count].value[0] = _PROGRAMMATIC, 1
            count += 1
        if cooperative:
            attributes[count].id, attributes[count].value[0] = _COOPERATIVE, 1
            count += 1
        stream = torch.cuda.current_stream(self.module.device).cuda_stream
        config = _Config(_dim(grid), _dim(block), shared, stream, attributes, count)
        values = [_value(a) for a in arguments]
        pointers = (c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        code = driver().cuLaunchKernelEx(byref(config), self._handle, pointers, None)
        if code:
            _check(code, f"launching kernel '{self.name}' (grid {grid}, block {block}, "
                   f"{shared} bytes of shared memory, cluster {cluster})")  # fmt: skip

    def _set(self, attribute: int, value: int) -> None:
        _check(
            driver().cuFuncSetAttribute(self._handle, attribute, value),
            f"setting attribute {attribute} of kernel '{self.name}' to {value}",
        )


class Module:
    """Machine code loaded on one device; kernels by name."""

    def __init__(self, cubin: bytes, device: int) -> None:
        self.device, self.handle = device, c_void_p()
        with torch.cuda.device(device):
            torch.cuda.current_stream()  # makes the primary context current
            torch.empty(1, device="cuda")
            _check(driver().cuModuleLoadData(byref(self.handle), cubin), "loading a kernel module")
        self._kernels: dict[str, Kernel] = {}

    def kernel(self, name: str) -> Kernel:
        """The kernel of that name (declared extern "C")."""
        if name not in self._kernels:
            with torch.cuda.device(self.device):
                self._kernels[name] = Kernel(self, name)
        return self._kernels[name]

    def read_int(self, name: str) -> int:
        """A global `int` of the module (declared extern "C" __device__)."""
        address, size, value = c_void_p(), c_size_t(), c_int()
        doing = f"reading '{name}' of a kernel module"
        _check(
            driver().cuModuleGetGlobal_v2(byref(address), byref(size), self.handle, name.encode()),
            doing,
        )
        _check(driver().cuMemcpyDtoH_v2(byref(value), address, c_size_t(4)), doing)
        return value.value


@functools.cache
def driver() -> ctypes.CDLL:
    """The CUDA driver's library, for calls that this module does not wrap."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise BackendError("libcuda.so.1 was not found; install the NVIDIA driver") from None


def _check(code: int, doing: str) -> None:
    if code:
        text = c_char_p()
        driver().cuGetErrorString(code, byref(text))
        raise BackendError(
            f"{doing}: {(text.value or b'unknown error').decode()} (CUDA driver error {code})"
        )


def _three(dim: Dim) -> tuple[int, int, int]:
    given = (dim,) if isinstance(dim, int) else tuple(dim)
    x, y, z = (*given, 1, 1, 1)[:3]
    return x, y, z


def _dim(dim: Dim) -> Any:
    return (c_uint * 3)(*_three(dim))


def _value(argument: Argument) -> Any:
    if isinstance(argument, Tensor):
        return c_void_p(argument.data_ptr())
    if argument is None:
        return c_void_p()
    if isinstance(argument, int):
        return c_int(argument)
    if isinstance(argument, float):
        return c_float(argument)
    return argument

"""cuSPARSELt by ctypes: out = act(weights @ x + bias [+ added]), weights 2:4 (1:2 in float32).

torch's own operators (torch._cslt_sparse_mm) have neither ReLU nor a sum nor batches, and plan
anew in every call; the library has them all. It comes with torch's CUDA wheels.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import weakref
from ctypes import byref, c_float, c_int, c_int32, c_int64, c_size_t, c_uint32, c_void_p
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from csbench.errors import BackendError

SONAME = "libcusparseLt.so.0"
# From cusparseLt.h, library_types.h and cusparse.h (the same from version 0.6 to 0.8).
_TYPES = {torch.float32: 0, torch.float16: 2, torch.bfloat16: 14}
_COMPUTE_32F, _SPARSITY_50 = 2, 0
_COLUMNS, _ROWS = 1, 2  # orders: which of them are contiguous
_AS_IS, _TRANSPOSED = 0, 1
_BATCHES, _BATCH_STRIDE = 0, 1
_RELU, _RELU_UPPERBOUND, _BIAS_POINTER = 0, 1, 8
_ALGORITHM, _ALGORITHMS, _SPLIT_K = 0, 1, 3
_ALIGNMENT = 16  # bytes
_STATUS = (
    "success", "not initialized", "out of host memory", "invalid value", "wrong architecture",
    "mapping error", "execution failed", "internal error", "matrix type not supported",
    "zero pivot", "not supported", "insufficient resources",
)  # fmt: skip


class _Opaque(ctypes.Structure):
    """One of the library's structures: 512 bytes in version 0.8, 13072 in 0.6."""

    _fields_ = [("bytes", ctypes.c_ubyte * 16384)]


class Problem(NamedTuple):
    """Products of one [rows, inner] matrix with [pixels, inner] transposed, for each image.

    The matrix of an image starts `step` numbers after the one before; pixels are contiguous.
    """

    rows: int
    inner: int
    pixels: int
    images: int
    step: int
    dtype: torch.dtype


def missing() -> str | None:
    """What keeps the library from being used here, and how to get it; None when it loads."""
    if not torch.cuda.is_available():
        return "no CUDA device"
    if torch.cuda.get_device_capability() < (8, 0):
        return "sparse tensor cores need a GPU of compute capability 8.0 (Ampere)"
    try:
        _library()
    except BackendError as error:
        return str(error)
    return None


def version(device: int) -> int:
    """The library's version, for example 801: what it was measured with."""
    found = c_int()
    _call("GetVersion", _handle(device), byref(found))
    return found.value


def compress(weight: Tensor) -> Tensor:
    """A [rows, inner] matrix on the device, 2:4 (1:2 in float32), as the library stores it."""
    rows, inner = weight.shape
    matrix = _sparse(Problem(rows, inner, 0, 1, 0, weight.dtype), weight.device.index)
    handle, size, buffer_size = _handle(weight.device.index), c_size_t(), c_size_t()
    _call("SpMMACompressedSize2", handle, matrix, byref(size), byref(buffer_size))
    out = torch.empty(size.value, dtype=torch.uint8, device=weight.device)
    buffer = torch.empty(max(1, buffer_size.value), dtype=torch.uint8, device=weight.device)
    _call(
        "SpMMACompress2", handle, matrix, c_int(1), c_int(_AS_IS), _pointer(weight), _pointer(out),
        _pointer(buffer), _stream(weight.device),
    )  # fmt: skip
    return out


def algorithms(problem: Problem, device: int) -> int:
    """How many algorithms the library has for a problem; they are numbered from 0."""
    selection = _Operation(problem, device).selection
    count = c_int()
    _call(
        "MatmulAlgGetAttribute", _handle(device), selection, c_int(_ALGORITHMS), byref(count),
        c_size_t(4),
    )  # fmt: skip
    return count.value


class Plan:
    """One problem by one algorithm, K cut in `split` parts, with its epilogue.

    `activation` is none, relu or relu6; `bias` is one number a row in the problem's type. Raises
    RuntimeError where the library has no such plan.
    """

    def __init__(
        self, problem: Problem, device: int, algorithm: int, split: int = 1,
        bias: Tensor | None = None, activation: str = "none",
    ) -> None:  # fmt: skip
        self._operation = operation = _Operation(problem, device, bias, activation)
        self._handle, self._device, self._bias = _handle(device), device, bias
        _set(device, "MatmulAlg", operation.selection, _ALGORITHM, c_int(algorithm))
        if split > 1:
            _set(device, "MatmulAlg", operation.selection, _SPLIT_K, c_int(split))
        self._plan = _opaque()
        _call("MatmulPlanInit", self._handle, self._plan, operation.descriptor, operation.selection)
        destroy = weakref.finalize(self, _library().cusparseLtMatmulPlanDestroy, byref(self._plan))
        destroy.atexit = False
        size = c_size_t()
        _call("MatmulGetWorkspace", self._handle, self._plan, byref(size))
        self.workspace_bytes = size.value

    def run(self, weights: Tensor, x: Tensor, out: Tensor, added: Tensor | None = None) -> None:
        """Queue it on torch's current stream; `added` may be `out` itself."""
        workspace = torch.empty(self.workspace_bytes, dtype=torch.uint8, device=out.device)
        stream = _stream(out.device)
        _call(
            "Matmul", self._handle, self._plan, byref(c_float(1)), _pointer(weights), _pointer(x),
            byref(c_float(0 if added is None else 1)), _pointer(out if added is None else added),
            _pointer(out), _pointer(workspace), byref(stream), c_int32(1),
        )  # fmt: skip


class _Operation:
    """The descriptors of a problem's matrices and of their product, kept alive together."""

    def __init__(
        self, problem: Problem, device: int, bias: Tensor | None = None, activation: str = "none"
    ) -> None:
        p, handle = problem, _handle(device)
        self.weights = _sparse(p, device)
        self.x, self.out = _opaque(), _opaque()
        kind = c_int(_TYPES[p.dtype])
        for matrix, shape, order in (
            (self.x, (p.pixels, p.inner, p.inner), _ROWS),
            (self.out, (p.rows, p.pixels, p.rows), _COLUMNS),
        ):
            sizes = [c_int64(n) for n in shape]
            _call(
                "DenseDescriptorInit", handle, matrix, *sizes, c_uint32(_ALIGNMENT), kind,
                c_int(order),
            )  # fmt: skip
        if p.images > 1:  # the weights are the same for all images: a stride of 0
            for matrix, step in (
                (self.weights, 0),
                (self.x, p.step),
                (self.out, p.rows * p.pixels),
            ):
                _set(device, "MatDesc", matrix, _BATCHES, c_int(p.images))
                _set(device, "MatDesc", matrix, _BATCH_STRIDE, c_int64(step))
        self.descriptor, self.selection = _opaque(), _opaque()
        _call(
            "MatmulDescriptorInit", handle, self.descriptor, c_int(_AS_IS), c_int(_TRANSPOSED),
            self.weights, self.x, self.out, self.out, c_int(_COMPUTE_32F),
        )  # fmt: skip
        if activation != "none":
            _set(device, "MatmulDesc", self.descriptor, _RELU, c_int(1))
        if activation == "relu6":
            _set(device, "MatmulDesc", self.descriptor, _RELU_UPPERBOUND, c_float(6))
        if bias is not None:
            _set(device, "MatmulDesc", self.descriptor, _BIAS_POINTER, _pointer(bias))
        _call("MatmulAlgSelectionInit", handle, self.selection, self.descriptor, c_int(0))


def _sparse(problem: Problem, device: int) -> _Opaque:
    matrix = _opaque()
    sizes = (c_int64(n) for n in (problem.rows, problem.inner, problem.inner))
    _call(
        "StructuredDescriptorInit", _handle(device), matrix, *sizes, c_uint32(_ALIGNMENT),
        c_int(_TYPES[problem.dtype]), c_int(_ROWS), c_int(_SPARSITY_50),
    )  # fmt: skip
    return matrix


def _set(device: int, what: str, target: _Opaque, attribute: int, value: Any) -> None:
    size = c_size_t(ctypes.sizeof(value))
    _call(f"{what}SetAttribute", _handle(device), target, c_int(attribute), byref(value), size)


def _call(name: str, *arguments: Any) -> None:
    given = [byref(a) if isinstance(a, _Opaque) else a for a in arguments]
    status = getattr(_library(), f"cusparseLt{name}")(*given)
    if status:
        known = _STATUS[status] if 0 < status < len(_STATUS) else f"status {status}"
        raise RuntimeError(f"cusparseLt{name}: {known}")


@functools.cache
def _handle(device: int) -> _Opaque:
    handle = _opaque()
    with torch.cuda.device(device):
        torch.empty(1, device="cuda")  # makes the primary context current
        _call("Init", handle)
    return handle


def _opaque() -> _Opaque:
    """Room for a structure, zeroed, at an address that is a multiple of 64."""
    buffer = (ctypes.c_ubyte * (ctypes.sizeof(_Opaque) + 63))()
    return _Opaque.from_buffer(buffer, -ctypes.addressof(buffer) % 64)


def _pointer(tensor: Tensor) -> c_void_p:
    return c_void_p(tensor.data_ptr())


def _stream(device: torch.device) -> c_void_p:
    return c_void_p(torch.cuda.current_stream(device).cuda_stream)


@functools.cache
def _library() -> ctypes.CDLL:
    folders = [
        Path(p) / sub / "lib" for p in sys.path for sub in ("nvidia/cusparselt", "cusparselt")
    ]
    for candidate in [*(str(f / SONAME) for f in folders if (f / SONAME).exists()), SONAME]:
        try:
            return ctypes.CDLL(candidate)
        except OSError:
            continue
    major = (torch.version.cuda or "13").split(".")[0]
    raise BackendError(
        f"{SONAME} was not found; install a CUDA build of torch, or: "
        f"pip install nvidia-cusparselt-cu{major}"
    )

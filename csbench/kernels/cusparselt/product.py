"""Products by cuSPARSELt: out = act(weights @ x + bias [+ added]), weights 2:4 (float32: 1:2).

torch's own operator (torch._cslt_sparse_mm) has neither ReLU nor a sum nor batches, and plans anew
in every call.
"""

from __future__ import annotations

import functools
from ctypes import byref, c_float, c_int, c_int32, c_int64, c_size_t, c_uint32
from typing import NamedTuple

import torch
from torch import Tensor

from csbench.kernels.cusparselt.library import (
    Opaque,
    call,
    handle,
    opaque,
    pointer,
    set_attribute,
    stream,
)

# From cusparseLt.h, library_types.h and cusparse.h (the same from version 0.6 to 0.8).
_TYPES = {torch.float32: 0, torch.float16: 2, torch.bfloat16: 14}
_COMPUTE_32F, _SPARSITY_50, _DEFAULT = 2, 0, 0
_COLUMNS, _ROWS = 1, 2  # orders: which of them are contiguous
_AS_IS, _TRANSPOSED = 0, 1
_BATCHES, _BATCH_STRIDE = 0, 1
_RELU, _RELU_UPPERBOUND, _BIAS_POINTER = 0, 1, 8
_ALGORITHM, _ALGORITHMS, _SPLIT_K = 0, 1, 3
_ALIGNMENT = 16  # bytes


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


class Algorithm(NamedTuple):
    """The library's number of an algorithm, and the parts that the inner dimension is cut in."""

    number: int
    split: int = 1


class Epilogue(NamedTuple):
    """A number for each row in the problem's type, and then none, relu or relu6."""

    bias: Tensor | None = None
    activation: str = "none"


def compress(weight: Tensor) -> Tensor:
    """A [rows, inner] matrix on the device, 2:4 (1:2 in float32), as the library stores it."""
    rows, inner = weight.shape
    device, size, scratch_size = weight.device.index, c_size_t(), c_size_t()
    matrix = _sparse(Problem(rows, inner, 0, 1, 0, weight.dtype), device)
    call("SpMMACompressedSize2", handle(device), matrix, byref(size), byref(scratch_size))
    out = torch.empty(size.value, dtype=torch.uint8, device=weight.device)
    scratch = torch.empty(scratch_size.value, dtype=torch.uint8, device=weight.device)
    is_first = c_int(1)  # of the product's two matrices
    call(
        "SpMMACompress2", handle(device), matrix, is_first, c_int(_AS_IS), pointer(weight),
        pointer(out), pointer(scratch), stream(weight.device),
    )  # fmt: skip
    return out


class Plan:
    """The product of one problem with its epilogue, by whichever algorithm a call names.

    A plan of the library is for the algorithm that its selection names at that moment: what is
    set later does not reach it. So one is made for each algorithm, in 0.1 ms. The selection takes
    0.2 s, and the library keeps all of them until the process ends.
    """

    def __init__(self, problem: Problem, device: int, epilogue: Epilogue | None = None) -> None:
        self.device, self._epilogue = device, epilogue or Epilogue()
        self._operation = _Operation(problem, device, self._epilogue)
        self._selection = opaque()
        described = self._operation.descriptor
        call("MatmulAlgSelectionInit", handle(device), self._selection, described, c_int(_DEFAULT))
        self._selected: Algorithm | None = None
        self._plans: dict[Algorithm, tuple[Opaque, int]] = {}

    @functools.cached_property
    def algorithms(self) -> int:
        """How many there are; they are numbered from 0."""
        count = c_int()
        wanted = (c_int(_ALGORITHMS), byref(count), c_size_t(4))
        call("MatmulAlgGetAttribute", handle(self.device), self._selection, *wanted)
        return count.value

    @functools.cached_property
    def cuts(self) -> bool:
        """Whether the inner dimension can be cut into parts."""
        try:
            for parts in (2, 1):
                self._set(_SPLIT_K, parts)
        except RuntimeError:
            return False
        return True

    def run(
        self, algorithm: Algorithm, weights: Tensor, x: Tensor, out: Tensor,
        added: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Queue it on torch's current stream; `added` may be `out` itself.

        Raises RuntimeError where the library does not have it.
        """
        plan, size = self._made(algorithm)
        workspace = torch.empty(size, dtype=torch.uint8, device=out.device)
        queue, beta = stream(out.device), c_float(0 if added is None else 1)
        call(
            "Matmul", handle(self.device), plan, byref(c_float(1)), pointer(weights),
            pointer(x), byref(beta), pointer(out if added is None else added), pointer(out),
            pointer(workspace), byref(queue), c_int32(1),
        )  # fmt: skip

    def workspace_bytes(self, algorithm: Algorithm) -> int:
        """What an algorithm takes beside its operands."""
        return self._made(algorithm)[1]

    def _made(self, algorithm: Algorithm) -> tuple[Opaque, int]:
        """The library's plan for an algorithm, and its workspace."""
        if algorithm != self._selected:
            self._set(_ALGORITHM, algorithm.number)
            if self.cuts:
                self._set(_SPLIT_K, algorithm.split)
            self._selected = algorithm
        if algorithm not in self._plans:
            plan, size = opaque(), c_size_t()
            described = self._operation.descriptor
            call("MatmulPlanInit", handle(self.device), plan, described, self._selection)
            call("MatmulGetWorkspace", handle(self.device), plan, byref(size))
            self._plans[algorithm] = plan, size.value
        return self._plans[algorithm]

    def _set(self, attribute: int, value: int) -> None:
        set_attribute(self.device, "MatmulAlg", self._selection, attribute, c_int(value))


class _Operation:
    """The descriptors of a problem's matrices and of their product, kept alive together."""

    def __init__(self, problem: Problem, device: int, epilogue: Epilogue) -> None:
        p = problem
        self.weights = _sparse(p, device)
        self.x = _dense(p.pixels, p.inner, _ROWS, p.dtype, device)
        self.out = _dense(p.rows, p.pixels, _COLUMNS, p.dtype, device)
        if p.images > 1:  # the weights are the same for all images: a stride of 0
            steps = (0, p.step, p.rows * p.pixels)
            for matrix, step in zip((self.weights, self.x, self.out), steps, strict=True):
                set_attribute(device, "MatDesc", matrix, _BATCHES, c_int(p.images))
                set_attribute(device, "MatDesc", matrix, _BATCH_STRIDE, c_int64(step))
        self.descriptor = opaque()
        call(
            "MatmulDescriptorInit", handle(device), self.descriptor, c_int(_AS_IS),
            c_int(_TRANSPOSED), self.weights, self.x, self.out, self.out, c_int(_COMPUTE_32F),
        )  # fmt: skip
        values = {
            _RELU: None if epilogue.activation == "none" else c_int(1),
            _RELU_UPPERBOUND: c_float(6) if epilogue.activation == "relu6" else None,
            _BIAS_POINTER: None if epilogue.bias is None else pointer(epilogue.bias),
        }
        for attribute, value in values.items():
            if value is not None:
                set_attribute(device, "MatmulDesc", self.descriptor, attribute, value)


def _sparse(problem: Problem, device: int) -> Opaque:
    matrix = opaque()
    sizes = (c_int64(n) for n in (problem.rows, problem.inner, problem.inner))
    call(
        "StructuredDescriptorInit", handle(device), matrix, *sizes, c_uint32(_ALIGNMENT),
        c_int(_TYPES[problem.dtype]), c_int(_ROWS), c_int(_SPARSITY_50),
    )  # fmt: skip
    return matrix


def _dense(rows: int, columns: int, order: int, dtype: torch.dtype, device: int) -> Opaque:
    matrix = opaque()
    sizes = (c_int64(n) for n in (rows, columns, columns if order == _ROWS else rows))
    rest = (c_uint32(_ALIGNMENT), c_int(_TYPES[dtype]), c_int(order))
    call("DenseDescriptorInit", handle(device), matrix, *sizes, *rest)
    return matrix

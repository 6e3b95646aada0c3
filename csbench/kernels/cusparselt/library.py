"""NVIDIA's cuSPARSELt by ctypes: where it is, its handle on a device, and calls that check.

It comes with torch's CUDA wheels. product.py builds on it.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from ctypes import byref, c_int, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from csbench.errors import BackendError

SONAME = "libcusparseLt.so.0"
_STATUS = (
    "success", "not initialized", "out of host memory", "invalid value", "wrong architecture",
    "mapping error", "execution failed", "internal error", "matrix type not supported",
    "zero pivot", "not supported", "insufficient resources",
)  # fmt: skip


class Opaque(ctypes.Structure):
    """One of the library's structures: 512 bytes in version 0.8, 13072 in 0.6."""

    _fields_ = [("bytes", ctypes.c_ubyte * 16384)]


def opaque() -> Opaque:
    """Room for a structure, zeroed, at an address that is a multiple of 64."""
    buffer = (ctypes.c_ubyte * (ctypes.sizeof(Opaque) + 63))()
    return Opaque.from_buffer(buffer, -ctypes.addressof(buffer) % 64)


def missing() -> str | None:
    """What keeps the library from being used here, and how to get it; None when it loads."""
    if not torch.cuda.is_available():
        return "no CUDA device"
    if torch.cuda.get_device_capability() < (8, 0):
        return "sparse tensor cores need a GPU of compute capability 8.0 (Ampere)"
    try:
        library()
    except BackendError as error:
        return str(error)
    return None


def version(device: int) -> int:
    """The library's version, for example 801: what it was measured with."""
    found = c_int()
    call("GetVersion", handle(device), byref(found))
    return found.value


def call(name: str, *arguments: Any) -> None:
    """cusparseLt`name`, structures by their address; RuntimeError when it refuses."""
    given = [byref(a) if isinstance(a, Opaque) else a for a in arguments]
    status = getattr(library(), f"cusparseLt{name}")(*given)
    if status:
        known = _STATUS[status] if 0 < status < len(_STATUS) else f"status {status}"
        raise RuntimeError(f"cusparseLt{name}: {known}")


def set_attribute(device: int, kind: str, target: Opaque, attribute: int, value: Any) -> None:
    """An attribute of a matrix ("MatDesc"), a product ("MatmulDesc") or selection ("MatmulAlg")."""
    size = c_size_t(ctypes.sizeof(value))
    call(f"{kind}SetAttribute", handle(device), target, c_int(attribute), byref(value), size)


def pointer(tensor: Tensor) -> c_void_p:
    return c_void_p(tensor.data_ptr())


def stream(device: torch.device) -> c_void_p:
    """torch's current stream."""
    return c_void_p(torch.cuda.current_stream(device).cuda_stream)


@functools.cache
def handle(device: int) -> Opaque:
    """The library's context on a device."""
    made = opaque()
    with torch.cuda.device(device):
        torch.empty(1, device="cuda")  # makes the primary context current
        call("Init", made)
    return made


@functools.cache
def library() -> ctypes.CDLL:
    """The shared library; raises BackendError with how to get it."""
    inside = ("nvidia/cusparselt/lib", "cusparselt/lib")
    files = [Path(folder) / part / SONAME for folder in sys.path for part in inside]
    for candidate in [*(str(file) for file in files if file.exists()), SONAME]:
        try:
            return ctypes.CDLL(candidate)
        except OSError:
            continue
    major = (torch.version.cuda or "13").split(".")[0]
    raise BackendError(
        f"{SONAME} was not found; install a CUDA build of torch, or: "
        f"pip install nvidia-cusparselt-cu{major}"
    )

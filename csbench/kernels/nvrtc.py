"""CUDA C++ compiled at run time by NVRTC, and cached by the hash of everything that decides it.

    module = nvrtc.load("block/block.cu", options=("-DTILE=64",))
    module.kernel("product").launch((8, 4), 256, [a, b, c, n], shared=65536, overlap=True)

NVRTC comes with torch's CUDA wheels, so users need no compiler; driver.py loads and launches.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ctypes import byref, c_char_p, c_int, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import torch

from csbench.core.cache import cache_dir, write_atomically
from csbench.errors import BackendError
from csbench.kernels.driver import Kernel, Module, driver

__all__ = [
    "Kernel", "Module", "architecture", "compile_all", "compile_cubin", "digest", "driver", "load",
    "load_cubin", "missing", "nvrtc_version", "source",
]  # fmt: skip

# Line numbers cost nothing at run time, and let compute-sanitizer and profilers name the source.
_FLAGS = ("--std=c++17", "--generate-line-info")


@functools.cache
def source(name: str) -> str:
    """Text of a kernel file by its path in this folder (`wgmma/conv.cu`)."""
    return (Path(__file__).parent / name).read_text()


@functools.cache
def digest(*names: str) -> str:
    """Changes with these kernel files and all that they include: for keys of choices measured."""
    text = "".join(source(name) for name in _with_headers(names))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _with_headers(names: Iterable[str]) -> list[str]:
    """The files and those of this folder that they include, also through each other."""
    found = list(names)
    for name in found:
        for included in re.findall(
            r'^\s*#\s*include\s*[<"]([^">]+)[">]', source(name), re.MULTILINE
        ):
            if included not in found and (Path(__file__).parent / included).is_file():
                found.append(included)
    return found


def load(file: str, *, options: Sequence[str] = (), device: int | None = None) -> Module:
    """Compile a kernel file for `device` (default: torch's current one); loaded once a process."""
    return _load(file, tuple(options), torch.cuda.current_device() if device is None else device)


@functools.cache
def _load(file: str, options: tuple[str, ...], device: int) -> Module:
    return Module(compile_cubin(file, options=options, arch=architecture(device)), device)


def load_cubin(cubin: bytes, device: int | None = None) -> Module:
    """Load machine code that something else compiled (nvcc -cubin)."""
    return Module(cubin, torch.cuda.current_device() if device is None else device)


def architecture(device: int) -> str:
    """The target of one device: `sm_80`, and `sm_90a` (with wgmma) from Hopper on."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}{'a' if major >= 9 else ''}"


def compile_all(jobs: Iterable[tuple[str, Sequence[str]]], device: int | None = None) -> None:
    """Compile kernel files, each with its options, side by side, as far as they are not cached.

    For a search, whose first use of every candidate would compile them one after another.
    """
    arch = architecture(torch.cuda.current_device() if device is None else device)
    wanted = {(file, tuple(options)) for file, options in jobs}
    lacking = sorted(job for job in wanted if not _cubin_path(*job, arch).exists())
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # NVRTC lets go of the interpreter's lock
        list(pool.map(lambda job: compile_cubin(job[0], options=job[1], arch=arch), lacking))


def compile_cubin(file: str, *, options: Sequence[str] = (), arch: str = "sm_90a") -> bytes:
    """Machine code of a kernel file; raises BackendError with the compiler's log.

    `#include` takes paths in this folder, and finds the CUDA headers where a wheel brought them.
    The files of this folder that the source includes are part of the cache key.
    """
    path = _cubin_path(file, tuple(options), arch)
    if path.exists():
        return path.read_bytes()
    flags = [f"--gpu-architecture={arch}", *_FLAGS, *options]
    flags += [f"-I{folder}" for folder in (Path(__file__).parent, *_cuda_headers())]
    cubin = _compile(source(file), flags, file)
    write_atomically(path, cubin)
    return cubin


def _cubin_path(file: str, options: tuple[str, ...], arch: str) -> Path:
    """Where the machine code is kept: under the hash of everything that decides it."""
    identity = repr((digest(file), arch, _FLAGS, options, nvrtc_version()))
    key = hashlib.sha256(identity.encode()).hexdigest()
    return cache_dir() / "nvrtc" / f"{key[:32]}.cubin"


def _compile(source: str, flags: Sequence[str], name: str) -> bytes:
    library, program = _nvrtc(), c_void_p()
    _check_nvrtc(
        library.nvrtcCreateProgram(byref(program), source.encode(), name.encode(), 0, None, None),
        f"reading {name}",
    )
    try:
        texts = (c_char_p * len(flags))(*(flag.encode() for flag in flags))
        code = library.nvrtcCompileProgram(program, len(flags), texts)
        if code:
            log = _fetch(library.nvrtcGetProgramLogSize, library.nvrtcGetProgramLog, program)
            text = log.rstrip(b"\0").decode(errors="replace").strip()
            raise BackendError(f"NVRTC could not compile {name}: {text or _message(code)}")
        return _fetch(library.nvrtcGetCUBINSize, library.nvrtcGetCUBIN, program)
    finally:
        library.nvrtcDestroyProgram(byref(program))


def _fetch(size_of: Any, get: Any, program: c_void_p) -> bytes:
    size = c_size_t()
    _check_nvrtc(size_of(program, byref(size)), "asking for the compiler's output")
    text = ctypes.create_string_buffer(size.value)
    _check_nvrtc(get(program, text), "fetching the compiler's output")
    return text.raw


@functools.cache
def nvrtc_version() -> tuple[int, int]:
    """Version of the NVRTC library, for example (13, 0)."""
    major, minor = c_int(), c_int()
    _check_nvrtc(_nvrtc().nvrtcVersion(byref(major), byref(minor)), "asking for its version")
    return major.value, minor.value


def missing() -> str | None:
    """What keeps NVRTC from being used here, and how to get it; None when it can be loaded."""
    try:
        _nvrtc()
    except BackendError as error:
        return str(error)
    return None


def missing_hopper(otherwise: str, needing: str) -> str | None:
    """What keeps kernels for Hopper from running here, and how to get it; None when they can.

    `otherwise` is said where there is no GPU; `needing` is who needs one of Hopper's, and the verb.
    """
    if not torch.cuda.is_available():
        return f"no CUDA device; {otherwise}"
    if torch.cuda.get_device_capability()[0] != 9:
        name = torch.cuda.get_device_name()
        return f"{needing} a Hopper GPU (compute capability 9.0); this is {name}"
    return missing()


@functools.cache
def _nvrtc() -> ctypes.CDLL:
    major = (torch.version.cuda or "13").split(".")[0]
    soname = f"libnvrtc.so.{major}"
    folders = [Path(p) / "nvidia" for p in sys.path if (Path(p) / "nvidia").is_dir()]
    found = [str(f) for folder in folders for f in sorted(folder.glob(f"*/lib/{soname}"))]
    for candidate in [*found, soname, f"/usr/local/cuda/lib64/{soname}"]:
        try:
            # NVRTC opens its builtins by name, so they have to be loaded already.
            for builtins in _beside(candidate, "libnvrtc-builtins.so.*"):
                ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
            library = ctypes.CDLL(candidate)
        except OSError:
            continue
        library.nvrtcGetErrorString.restype = c_char_p
        return library
    raise BackendError(
        f"{soname} was not found; install a CUDA build of torch, or: "
        f"pip install nvidia-cuda-nvrtc{'-cu12' if major == '12' else ''}"
    )


def _beside(library: str, pattern: str) -> list[Path]:
    """Files next to a library given by its full path; none for a bare name."""
    return sorted(Path(library).parent.glob(pattern)) if "/" in library else []


@functools.cache
def _cuda_headers() -> tuple[Path, ...]:
    folders = [f for p in sys.path for f in sorted((Path(p) / "nvidia").glob("*/include"))]
    folders.append(Path("/usr/local/cuda/include"))
    return tuple(f for f in folders if (f / "cuda_fp16.h").exists())


def _check_nvrtc(code: int, doing: str) -> None:
    if code:
        raise BackendError(f"NVRTC, {doing}: {_message(code)}")


def _message(code: int) -> str:
    return str(_nvrtc().nvrtcGetErrorString(code).decode())

"""CUDA C++ compiled at run time by NVRTC, loaded and launched through the CUDA driver.

    module = nvrtc.load("block/block.cu", options=("-DTILE=64",))
    module.kernel("product").launch((8, 4), 256, [a, b, c, n], shared=65536, overlap=True)

Both libraries come with torch's CUDA wheels, so users need no compiler. They are called through
ctypes, because launches need attributes (clusters, programmatic dependent launch) that the
Python wrappers of CUDA expose only in part. Compiled code is cached by the hash of everything
that decides it.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import re
import sys
from collections.abc import Sequence
from ctypes import byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_void_p
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from csbench.core.cache import cache_dir, write_atomically
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
def source(name: str) -> str:
    """Text of a kernel file by its path in this folder (`wgmma/conv.cu`)."""
    return (Path(__file__).parent / name).read_text()


@functools.cache
def digest(*names: str) -> str:
    """Changes with the kernel files of these names: for keys of choices measured with them."""
    text = "".join(source(name) for name in names)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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


def compile_cubin(file: str, *, options: Sequence[str] = (), arch: str = "sm_90a") -> bytes:
    """Machine code of a kernel file; raises BackendError with the compiler's log.

    `#include` takes paths in this folder, and finds the CUDA headers where a wheel brought them.
    The files of this folder that the source includes are part of the cache key.
    """
    text = source(file)
    flags = [f"--gpu-architecture={arch}", "--std=c++17", *options]
    flags += [f"-I{folder}" for folder in (Path(__file__).parent, *_cuda_headers())]
    version = nvrtc_version()
    key = hashlib.sha256(
        repr((text, arch, tuple(options), version, _included(text))).encode()
    ).hexdigest()
    path = cache_dir() / "nvrtc" / f"{key[:32]}.cubin"
    if path.exists():
        return path.read_bytes()
    cubin = _compile(text, flags, file)
    write_atomically(path, cubin)
    return cubin


def _included(source: str) -> list[str]:
    """Texts of the files of this folder that a source includes, directly or through others."""
    texts: dict[str, str] = {}
    pending = [source]
    while pending:
        for name in re.findall(r'^\s*#\s*include\s*[<"]([^">]+)[">]', pending.pop(), re.MULTILINE):
            file = Path(__file__).parent / name
            if name not in texts and file.is_file():
                texts[name] = file.read_text()
                pending.append(texts[name])
    return [texts[name] for name in sorted(texts)]


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
def driver() -> ctypes.CDLL:
    """The CUDA driver's library, for calls that this module does not wrap."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise BackendError("libcuda.so.1 was not found; install the NVIDIA driver") from None


@functools.cache
def _cuda_headers() -> tuple[Path, ...]:
    folders = [f for p in sys.path for f in sorted((Path(p) / "nvidia").glob("*/include"))]
    folders.append(Path("/usr/local/cuda/include"))
    return tuple(f for f in folders if (f / "cuda_fp16.h").exists())


def _check(code: int, doing: str) -> None:
    if code:
        text = c_char_p()
        driver().cuGetErrorString(code, byref(text))
        raise BackendError(
            f"{doing}: {(text.value or b'unknown error').decode()} (CUDA driver error {code})"
        )


def _check_nvrtc(code: int, doing: str) -> None:
    if code:
        raise BackendError(f"NVRTC, {doing}: {_message(code)}")


def _message(code: int) -> str:
    return str(_nvrtc().nvrtcGetErrorString(code).decode())


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

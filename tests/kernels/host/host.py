"""Kernels' own source on a CPU: compiled by g++ with lanes as fibers, launched as on a GPU.

install() is all that a test needs. What stands for CUDA is beside this file: device.h (lanes and
clusters), engine.h (the copy engine and its barriers), and headers in the place of those that hold
instructions.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from ctypes import c_char_p, c_int, c_longlong, c_ubyte, c_uint16, c_void_p
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from csbench.backends.block import cutlass_layer
from csbench.kernels import nvrtc
from csbench.kernels.cutlass import maps, nvcc
from csbench.kernels.driver import _value
from csbench.kernels.gather import launch, tile
from csbench.kernels.wgmma import halo
from csbench.kernels.wgmma import launch as wgmma_launch

HOST, KERNELS = Path(__file__).parent, Path(nvrtc.__file__).parent
CUDA = next(iter(nvrtc._cuda_headers()), None)
Predecessor = ctypes.CFUNCTYPE(None)

needs_gxx = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
needs_cutlass = pytest.mark.skipif(
    nvcc.headers() is None or CUDA is None, reason="no CUTLASS or no CUDA headers"
)


def install(patch: pytest.MonkeyPatch, processors: int = 132) -> None:
    """Kernels of NVRTC, and the one on CUTLASS, run on a CPU that has so many multiprocessors."""

    def load(file: str, *, options: Sequence[str] = (), device: object = None) -> Module:
        return Module(file, options)

    def cutlass_kernel(file: str, options: Sequence[str], device: object) -> Kernel:
        return Module(f"cutlass/{file}", options).kernel("block_convolution")

    patch.setattr(nvrtc, "load", load)
    patch.setattr(nvrtc, "driver", Driver)
    patch.setattr(maps, "driver", Driver, raising=False)
    patch.setattr(cutlass_layer, "_kernel", cutlass_kernel)
    for module in (launch, wgmma_launch, halo):
        patch.setattr(module, "processors", lambda device: processors)
    patch.setattr(torch.cuda, "current_device", lambda: 0)
    patch.setattr(tile, "check_registers", lambda *_: None)  # a CPU's are its own


class Module:
    """Stands for driver.Module."""

    def __init__(self, file: str, options: Sequence[str]) -> None:
        self._library = _compiled(file, tuple(options))

    def kernel(self, name: str) -> Kernel:
        return Kernel(getattr(self._library, f"run_{name}"))


class Kernel:
    """Stands for driver.Kernel; the clusters of a grid run one after another."""

    predecessor: Callable[[], None] | None = None  # see ends_late()

    def __init__(self, run: Any) -> None:
        self._run = run
        run.argtypes = [c_int, c_int, c_int, c_int, c_int, c_void_p, Predecessor]
        run.restype = c_char_p

    def prepare(self, **_: Any) -> Kernel:
        return self

    def launch(
        self, grid: int | tuple[int, int], block: int, arguments: Sequence[Any], *, shared: int = 0,
        cluster: int | None = None, overlap: bool = False,
    ) -> None:  # fmt: skip
        values = [_value(a) for a in arguments]
        pointers = (c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        ends = Predecessor(Kernel.predecessor) if Kernel.predecessor else Predecessor()
        across, down = grid if isinstance(grid, tuple) else (grid, 1)
        wrong = self._run(across, down, block, cluster or 1, shared, pointers, ends)
        assert wrong is None, wrong.decode()


@contextlib.contextmanager
def ends_late(values: Sequence[Tensor]) -> Iterator[None]:
    """The kernel before writes these in the end: NaN until a kernel first waits for it."""
    results = [v.clone() for v in values]
    for v in values:
        v.fill_(torch.nan)

    def end() -> None:
        for v, result in zip(values, results, strict=True):
            v.copy_(result)

    Kernel.predecessor = staticmethod(end)
    try:
        yield
    finally:
        Kernel.predecessor = None


class _Map(ctypes.Structure):
    """struct TensorMap of engine.h."""

    _fields_ = [
        ("base", c_void_p), ("stride", c_longlong * 4), ("extent", c_int * 5),
        ("lower", c_int * 2), ("upper", c_int * 2), ("box", c_uint16 * 5), ("step", c_ubyte * 5),
        *((name, c_ubyte) for name in ("rank", "element", "swizzle")),
    ]  # fmt: skip


_BYTES = {6: 2, 7: 4, 9: 2}  # of a number, by CUtensorMapDataType
_SWIZZLES = (0, 32, 64, 128)  # bytes of a row, by CUtensorMapSwizzle


class Driver:
    """Writes tensor maps for engine.h, and refuses what the real driver refuses."""

    def cuTensorMapEncodeTiled(  # noqa: N802
        self, into: Any, numbers: int, rank: int, base: c_void_p, extent: Any, stride: Any,
        box: Any, step: Any, interleave: int, swizzle: int, promotion: int, fill: int,
    ) -> int:  # fmt: skip
        inner = box[0] * _BYTES[numbers]
        legal = all(0 < b <= 256 for b in box) and step[0] == 1 and inner % 16 == 0
        return self._write(into, legal, numbers, base, extent, stride, box, step, swizzle, inner)

    def cuTensorMapEncodeIm2col(  # noqa: N802
        self, into: Any, numbers: int, rank: int, base: c_void_p, extent: Any, stride: Any,
        lower: Any, upper: Any, channels: int, pixels: int, step: Any, interleave: int,
        swizzle: int, promotion: int, fill: int,
    ) -> int:  # fmt: skip
        inner = channels * _BYTES[numbers]
        legal = rank == 4 and 0 < channels <= 256 and 0 < pixels <= 1024 and inner % 16 == 0
        legal &= all(-128 <= corner < 128 for corner in (*lower, *upper))
        return self._write(
            into, legal, numbers, base, extent, stride, (channels, pixels), step, swizzle, inner,
            tuple(lower), tuple(upper),
        )  # fmt: skip

    def _write(
        self, into: Any, legal: bool, numbers: int, base: c_void_p, extent: Any, stride: Any,
        box: Any, step: Any, swizzle: int, inner: int, *corners: tuple[int, int],
    ) -> int:  # fmt: skip
        row = _SWIZZLES[swizzle]
        legal &= (base.value or 0) % 16 == 0 and 0 < len(extent) <= 5 and all(extent)
        legal &= all(s % 16 == 0 and 0 < s < 2**40 for s in stride)
        legal &= all(0 < s <= 8 for s in step) and (not row or inner <= row)
        if not legal:
            return 1
        lower, upper = corners or ((0, 0), (0, 0))
        found = _Map(
            base.value, tuple(stride), tuple(extent), lower, upper, tuple(box), tuple(step),
            len(extent), _BYTES[numbers], row,
        )  # fmt: skip
        ctypes.memmove(into, ctypes.byref(found), ctypes.sizeof(found))
        return 0


@functools.cache
def _compiled(file: str, options: tuple[str, ...]) -> ctypes.CDLL:
    text = (KERNELS / file).read_text()
    names = re.findall(r"__global__ void (?:__launch_bounds__\([^)]*\)\s+)?(\w+)\(", text)
    cute = file.startswith("cutlass/")
    common = _common(cute)
    target = common / f"{hashlib.sha256(repr((file, options)).encode()).hexdigest()[:16]}.so"
    _gxx(
        *_flags(cute), "-shared", f"-I{common}", f"-I{HOST}", f"-I{KERNELS}", *options,
        f'-DHOST_FILE="{file}"',
        f"-DHOST_KERNELS={''.join(f'ENTRY({name}) ' for name in names)}",
        "-o", target, HOST / "kernels.cpp",
    )  # fmt: skip
    return ctypes.CDLL(str(target))


@functools.cache
def _common(cute: bool) -> Path:
    """A folder with common.h precompiled: 0.4 of the 1.2 s that a kernel took, 1.5 of 5 by CuTe."""
    folder = Path(_folder().name) / ("cute" if cute else "plain")
    folder.mkdir()
    _gxx(*_flags(cute), f"-I{HOST}", "-o", folder / "common.h.gch", HOST / "common.h")
    return folder


def _flags(cute: bool) -> tuple[str, ...]:
    flags = ("-O1", "-std=c++17", "-w", "-fPIC", "-U_FORTIFY_SOURCE")
    if not cute:
        return flags
    return (*flags, f"-I{nvcc.headers()}", f"-I{CUDA}", f"-I{CUDA}/cccl", "-fpermissive",
            "-DHOST_CUTE=1")  # fmt: skip


def _gxx(*arguments: str | Path) -> None:
    done = subprocess.run(["g++", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Gone with this process."""
    return tempfile.TemporaryDirectory(prefix="csbench-host-")

"""The gather kernels' own source on a CPU: compiled by g++ with lanes as fibers (see host/)."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from ctypes import c_char_p, c_int, c_longlong, c_ubyte, c_uint16, c_void_p
from pathlib import Path
from typing import Any

import pytest
import torch

from csbench.kernels import nvrtc
from csbench.kernels.driver import _value
from csbench.kernels.gather import launch

HOST = Path(__file__).parent / "host"
KERNELS = Path(nvrtc.__file__).parent

needs_gxx = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")


class _Map(ctypes.Structure):
    """struct TensorMap of host/wgmma/common.cuh."""

    _fields_ = [
        ("base", c_void_p), ("stride", c_longlong * 4), ("extent", c_int * 5),
        ("box", c_uint16 * 5), ("step", c_ubyte * 5), ("swizzled", c_ubyte),
    ]  # fmt: skip


class FakeDriver:
    """Writes tensor maps for the host's copy engine, and refuses what the real driver refuses."""

    def cuTensorMapEncodeTiled(  # noqa: N802
        self, into: Any, dtype: int, rank: int, base: c_void_p, extent: Any, stride: Any, box: Any,
        step: Any, interleave: int, swizzle: int, promotion: int, fill: int,
    ) -> int:  # fmt: skip
        inner = box[0] * 2
        legal = (
            rank == 5 and (base.value or 0) % 16 == 0 and all(s % 16 == 0 for s in stride)
            and all(0 < b <= 256 for b in box) and all(0 < s <= 8 for s in step)
            and inner % 16 == 0 and step[0] == 1 and (not swizzle or inner <= 128)
        )  # fmt: skip
        if not legal:
            return 1
        found = _Map(
            base.value, tuple(stride), tuple(extent), tuple(box), tuple(step), bool(swizzle)
        )
        ctypes.memmove(into, ctypes.byref(found), ctypes.sizeof(found))
        return 0


class FakeKernel:
    """Stands for driver.Kernel; grids of clusters run one after another."""

    def __init__(self, run: Any) -> None:
        self._run = run
        run.argtypes, run.restype = [c_int, c_int, c_int, c_int, c_void_p], c_char_p

    def prepare(self, **_: Any) -> FakeKernel:
        return self

    def launch(
        self, grid: int, block: int, arguments: Sequence[Any], *, shared: int = 0,
        cluster: int | None = None, overlap: bool = False,
    ) -> None:  # fmt: skip
        values = [_value(a) for a in arguments]
        pointers = (c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        wrong = self._run(grid, block, cluster or 1, max(shared, 16), pointers)
        assert wrong is None, wrong.decode()


class FakeModule:
    """Stands for driver.Module."""

    def __init__(self, file: str, options: Sequence[str]) -> None:
        self._library = _compiled(file, tuple(options))

    def kernel(self, name: str) -> FakeKernel:
        return FakeKernel(getattr(self._library, f"run_{name}"))


def install(patch: pytest.MonkeyPatch, processors: int) -> None:
    """Kernels run on the CPU, on a device of so many multiprocessors."""

    def load(file: str, *, options: Sequence[str] = ()) -> FakeModule:
        return FakeModule(file, options)

    patch.setattr(nvrtc, "load", load)
    patch.setattr(nvrtc, "driver", FakeDriver)
    patch.setattr(launch, "processors", lambda _: processors)
    patch.setattr(torch.cuda, "current_device", lambda: 0)


@functools.cache
def _compiled(file: str, options: tuple[str, ...]) -> ctypes.CDLL:
    names = re.findall(
        r'extern "C" __global__ void (?:__launch\S+ \S+\s+)?(\w+)\(', nvrtc.source(file)
    )
    target = _folder() / f"{hashlib.sha256(repr((file, options)).encode()).hexdigest()[:16]}.so"
    done = subprocess.run(
        ["g++", "-O1", "-std=c++17", "-w", "-shared", "-fPIC", "-U_FORTIFY_SOURCE", f"-I{HOST}",
         f"-I{KERNELS}", *options, f'-DHOST_FILE="{file}"',
         f"-DHOST_KERNELS={''.join(f'ENTRY({name}) ' for name in names)}", "-o", target,
         HOST / "kernels.cpp"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(target))


@functools.cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="csbench-host-"))

"""The csr kernels' own source on a CPU: compiled by g++ with lanes as fibers (see host/)."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from ctypes import c_int, c_void_p
from pathlib import Path
from typing import Any

import pytest

from csbench.kernels import nvrtc
from csbench.kernels.csr import launch
from csbench.kernels.driver import _value

HOST = Path(__file__).parent / "host"
KERNELS = Path(nvrtc.__file__).parent
HEADERS = next((f for f in nvrtc._cuda_headers()), None)

needs_host = pytest.mark.skipif(
    shutil.which("g++") is None or HEADERS is None, reason="no g++, or no CUDA headers"
)


class FakeKernel:
    """Stands for driver.Kernel."""

    def __init__(self, source: str, name: str, options: tuple[str, ...], device: object) -> None:
        self._run = _compiled(source, name, options)

    def launch(
        self, grid: int, threads: int, arguments: Sequence[Any], *, shared: int, overlap: bool
    ) -> None:
        values = [_value(a) for a in arguments]
        pointers = (c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        self._run(grid, threads, shared, pointers)


def install(patch: pytest.MonkeyPatch) -> None:
    """Kernels run on the CPU."""
    patch.setattr(launch, "_kernel", FakeKernel)


@functools.cache
def _compiled(source: str, name: str, options: tuple[str, ...]) -> Any:
    target = _folder() / f"{hashlib.sha256(repr((source, options)).encode()).hexdigest()[:24]}.so"
    done = subprocess.run(
        ["g++", "-O0", "-std=c++17", "-w", "-shared", "-fPIC", f"-I{HOST}", f"-I{KERNELS}",
         f"-I{HEADERS}", *options, f'-DHOST_FILE="{source}"', f"-DHOST_KERNEL={name}",
         "-o", target, HOST / "kernel.cpp"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = ctypes.CDLL(str(target)).run
    run.argtypes, run.restype = [c_int, c_int, c_int, c_void_p], None
    return run


@functools.cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="csbench-host-"))

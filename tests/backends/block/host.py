"""The block kernels' own source on a CPU: compiled by g++ for the machine of vector/host."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from ctypes import c_int, c_void_p
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from csbench.backends.block import cutlass_layer, gpu
from csbench.kernels import nvrtc
from csbench.kernels.cutlass import maps, nvcc
from csbench.kernels.cutlass.maps import Window
from tests.backends.vector.host import FakeKernel, needs_gxx

HOST = Path(__file__).parent / "host"
MACHINE = HOST.parent.parent / "vector" / "host"
KERNELS = Path(nvrtc.__file__).parent
CUDA = next(iter(nvrtc._cuda_headers()), None)
ALIGNMENT = 1024  # of dynamic shared memory

needs_cutlass = pytest.mark.skipif(
    nvcc.headers() is None or CUDA is None, reason="no CUTLASS or no CUDA headers"
)
__all__ = ["install", "needs_cutlass", "needs_gxx"]


class Kernel(FakeKernel):
    """Shared memory may begin at any address: there is room to align it."""

    def launch(
        self, grid: int, block: int, arguments: Sequence[Any], *, shared: int = 0,
        cluster: int | None = None, overlap: bool = False,
    ) -> None:  # fmt: skip
        super().launch(grid, block, arguments, shared=shared + ALIGNMENT, cluster=cluster)


class Map(ctypes.Structure):
    """struct TensorMap of host/cutlass/copies.cuh."""

    _fields_ = [
        ("base", c_void_p), *((name, c_int) for name in ("channels", "width", "height", "images")),
        *((name, c_int * 2) for name in ("lower", "upper", "stride")),
        *((name, c_int) for name in ("box_channels", "box_pixels", "element")),
    ]  # fmt: skip


def windows(
    image: Tensor, precision: str, size: tuple[int, int, int, int], window: Window, *,
    channels: int, pixels: int,
) -> Map:  # fmt: skip
    """maps.windows() for the host."""
    n, h, w, c = size
    geometry = zip(window.padding, window.kernel, window.dilation, strict=True)
    high, wide = (p - (k - 1) * d for p, k, d in geometry)
    down, across = window.padding
    return Map(
        image.data_ptr(), c, w, h, n, (-across, -down), (wide, high), tuple(window.stride[::-1]),
        channels, pixels, image.element_size(),
    )  # fmt: skip


def lines(
    image: Tensor, precision: str, count: int, columns: int, *, channels: int, pixels: int
) -> Map:
    """maps.lines() for the host."""
    assert pixels <= 256
    one = Window((1, 1), (1, 1), (0, 0), (1, 1))
    return windows(image, precision, (1, 1, count, columns), one, channels=channels, pixels=pixels)


def install(patch: pytest.MonkeyPatch) -> None:
    """Kernels run on the CPU."""
    patch.setattr(gpu, "_kernel", _on_host(
        MACHINE / "kernels.cpp", f'-DHOST_FILE="{gpu.SOURCE}"',
        "-DHOST_KERNELS=ENTRY(block_convolution)",
    ))  # fmt: skip
    patch.setattr(cutlass_layer, "_kernel", _on_host(
        HOST / "cutlass.cpp", "-fpermissive", f"-I{nvcc.headers()}", f"-I{CUDA}",
        f"-I{CUDA}/cccl",
    ))  # fmt: skip
    patch.setattr(maps, "windows", windows)
    patch.setattr(maps, "lines", lines)


def _on_host(file: Path, *flags: str) -> Callable[[tuple[str, ...], object], Kernel]:
    return lambda options, device: Kernel(_compiled(file, (*flags, *options)))


@functools.cache
def _compiled(file: Path, flags: tuple[str, ...]) -> Any:
    target = _folder() / f"{hashlib.sha256(repr((file, flags)).encode()).hexdigest()[:16]}.so"
    done = subprocess.run(
        ["g++", "-O1", "-std=c++17", "-w", "-shared", "-fPIC", "-U_FORTIFY_SOURCE", f"-I{HOST}",
         f"-I{MACHINE}", f"-I{KERNELS}", *flags, "-o", target, file],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(target)).run_block_convolution


@functools.cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="csbench-host-"))

"""Kernels on CUTLASS, compiled by nvcc at first use and kept by the hash of all that decides them.

NVRTC cannot read all of CUTLASS's headers, so this needs a CUDA toolkit. The headers come from the
package nvidia-cutlass, or from a checkout that CUTLASS_PATH names.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from csbench.core.cache import cache_dir, write_atomically
from csbench.errors import BackendError

FLAGS = (
    "-cubin", "--std=c++17", "--expt-relaxed-constexpr", "-lineinfo",
    "-DCUTLASS_ENABLE_GDC_FOR_SM90=1",  # programmatic dependent launch
)  # fmt: skip
OLDEST = (12, 3)  # the CUDA release from which CUTLASS 4 is supported
_HERE = Path(__file__).parent
_TIMEOUT_S = 600


def missing() -> str | None:
    """What keeps kernels from being compiled here, and how to get it; None when ready."""
    lacking = []
    if compiler() is None:
        lacking.append("nvcc (install the CUDA toolkit, or set CUDA_HOME to its folder)")
    elif _release() < OLDEST:
        lacking.append(
            f"nvcc {OLDEST[0]}.{OLDEST[1]} or newer (this is {_release()[0]}.{_release()[1]})"
        )
    if headers() is None:
        lacking.append("CUTLASS's headers (pip install 'csbench[cutlass]', or set CUTLASS_PATH)")
    return f"it needs {' and '.join(lacking)}" if lacking else None


@functools.cache
def compiler() -> str | None:
    """The path of nvcc: in $CUDA_HOME, else on the PATH, else in /usr/local/cuda."""
    homes = [home for name in ("CUDA_HOME", "CUDA_PATH") if (home := os.environ.get(name))]
    for place in [*(f"{home}/bin" for home in homes), None, "/usr/local/cuda/bin"]:
        if found := shutil.which("nvcc", path=place):
            return found
    return None


@functools.cache
def headers() -> Path | None:
    """The folder that holds cutlass/ and cute/."""
    folders = []
    if chosen := os.environ.get("CUTLASS_PATH"):
        folders += [Path(chosen) / "include", Path(chosen)]
    package = importlib.util.find_spec("cutlass_library")
    for place in (package.submodule_search_locations or []) if package else []:
        folders.append(Path(place) / "source" / "include")
    return next((f for f in folders if (f / "cute" / "tensor.hpp").is_file()), None)


def compile_all(jobs: Iterable[tuple[str, Sequence[str]]], arch: str) -> None:
    """Compile files of this folder, each with its options, side by side, unless they are kept."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda job: compile_cubin(job[0], job[1], arch), sorted(set(jobs))))


def compile_cubin(file: str, options: Sequence[str], arch: str) -> bytes:
    """Machine code of a file of this folder; raises BackendError with the first error."""
    if problem := missing():
        raise BackendError(f"{file} cannot be compiled: {problem}")
    path = cache_dir() / "nvcc" / f"{_key(file, tuple(options), arch)}.cubin"
    if not path.exists():
        write_atomically(path, _compile(file, options, arch))
    return path.read_bytes()


def command(file: str, options: Sequence[str], arch: str, target: Path) -> list[str]:
    """The call of nvcc; `arch` is sm_90a, say."""
    number = arch.removeprefix("sm_")
    return [
        str(compiler()), *FLAGS, f"-gencode=arch=compute_{number},code={arch}",
        f"-I{_HERE.parent}", f"-I{headers()}", *options, "-o", str(target), str(_HERE / file),
    ]  # fmt: skip


def digest(file: str) -> str:
    """Changes with a file of this folder and with what it includes: for keys of choices."""
    texts = [_HERE / file]
    for text in texts:
        for name in re.findall(r'^#include "(.+)"', text.read_text(), re.MULTILINE):
            places = (text.parent / name, _HERE.parent / name)
            included = next((place for place in places if place.is_file()), None)
            if included is not None and included not in texts:
                texts.append(included)
    return hashlib.sha256(b"\0".join(text.read_bytes() for text in texts)).hexdigest()[:16]


def _compile(file: str, options: Sequence[str], arch: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "kernel.cubin"
        try:
            done = subprocess.run(
                command(file, options, arch, target), capture_output=True, text=True,
                timeout=_TIMEOUT_S, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BackendError(f"nvcc fails on {file}: {error}") from error
        if done.returncode:
            lines = [line for line in (done.stderr + done.stdout).splitlines() if "error" in line]
            raise BackendError(f"nvcc cannot compile {file}: {lines[0] if lines else 'no message'}")
        return target.read_bytes()


def _key(file: str, options: tuple[str, ...], arch: str) -> str:
    parts = (digest(file), FLAGS, options, arch, _version(), _cutlass_version())
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


@functools.cache
def _version() -> str:
    done = subprocess.run(
        [str(compiler()), "--version"], capture_output=True, text=True, check=False
    )
    return done.stdout


def _release() -> tuple[int, int]:
    found = re.search(r"release (\d+)\.(\d+)", _version())
    return (int(found[1]), int(found[2])) if found else (0, 0)


@functools.cache
def _cutlass_version() -> str:
    file = Path(str(headers())) / "cutlass" / "version.h"
    return " ".join(re.findall(r"#define CUTLASS_(?:MAJOR|MINOR|PATCH) (\d+)", file.read_text()))

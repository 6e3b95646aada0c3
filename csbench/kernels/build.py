"""C++ sources compiled by the compiler at hand into a shared library, once, and loaded by ctypes.

    library = build.load("cs.cpp")
    library.cs_run(plan, x.data_ptr(), ...)

The library is kept in the cache folder under the hash of everything that decides it: source and
headers, flags, compiler version and CPU. Processes may build at the same time; the last one wins.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch  # noqa: F401 (its OpenMP runtime must be in the process before a kernel asks for one)

from csbench.core.cache import cache_dir
from csbench.errors import BackendError

COMPILERS = ("g++", "c++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-shared", "-fPIC", "-Wno-psabi")
# What a compiler may not know is left out: the CPU's own instructions, then threads.
OPTIONAL = (
    ("-march=native", "-fopenmp"), ("-mcpu=native", "-fopenmp"), ("-fopenmp",),
    ("-march=native",), (),
)  # fmt: skip
TIMEOUT_S = 300
_SOURCES = Path(__file__).parent / "cpu"


def missing() -> str | None:
    """What keeps kernels from being compiled here, and how to get it; None when ready."""
    if compiler() is not None:
        return None
    if chosen := os.environ.get("CXX"):
        return f"CXX is '{chosen}', which is no program; set it to a C++ compiler, e.g. CXX=g++"
    return "no C++ compiler found; install g++ (apt install g++) or set CXX"


def compiler() -> tuple[str, ...] | None:
    """The command of the C++ compiler: $CXX, else the first of g++, c++ and clang++."""
    chosen = shlex.split(os.environ.get("CXX", ""))
    if chosen:
        return tuple(chosen) if shutil.which(chosen[0]) else None
    return next(((name,) for name in COMPILERS if shutil.which(name)), None)


@functools.cache
def load(name: str) -> ctypes.CDLL:
    """The compiled library of a source file in cpu/; raises BackendError."""
    if (problem := missing()) is not None:
        raise BackendError(problem)
    command = compiler()
    assert command is not None
    path = cache_dir() / "cpu" / f"{Path(name).stem}-{_digest(_SOURCES / name, command)}.so"
    if not path.exists():
        _compile(_SOURCES / name, path, command)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BackendError(
            f"the compiled kernel {path} does not load: {error}; delete it and try again"
        ) from error


def _compile(source: Path, target: Path, command: tuple[str, ...]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        out = Path(folder) / target.name
        problem = ""
        for optional in OPTIONAL:
            libraries = _openmp_runtime() if "-fopenmp" in optional else ()
            done = _run((*command, *FLAGS, *optional, str(source), "-o", str(out), *libraries))
            if done.returncode == 0:
                out.replace(target)
                return
            problem = problem or _first_error(done.stderr)
    raise BackendError(
        f"{' '.join(command)} cannot compile {source.name}: {problem}; "
        "set CXX to a C++17 compiler, e.g. CXX=g++"
    )


def _run(command: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(f"the C++ compiler '{command[0]}' fails: {error}") from error


def _first_error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error:" in line), lines[0] if lines else "no message")


def _openmp_runtime() -> tuple[str, ...]:
    """The GNU OpenMP library that torch has loaded: two of them would fight for the cores."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return ()
    found = re.search(r"/\S*libgomp\S*\.so\S*", maps.read_text())
    return ("-Wl,--as-needed", found.group()) if found else ()


def _digest(source: Path, command: tuple[str, ...]) -> str:
    """Hex digits of everything that decides the compiled code."""
    runtime = [Path(name).name for name in _openmp_runtime()[1:]]
    version = _run((*command, "--version")).stdout
    parts = [*command, version, *FLAGS, repr(OPTIONAL), repr(runtime), _cpu()]
    digest = hashlib.sha256("\0".join(parts).encode())
    for file in _with_headers(source):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:20]


def _with_headers(source: Path) -> list[Path]:
    """The source and the headers of its folder that it includes, also through each other."""
    found = [source]
    for file in found:
        for name in re.findall(r'^#include "(.+)"', file.read_text(), re.MULTILINE):
            if (header := file.parent / name) not in found:
                found.append(header)
    return found


@functools.cache
def _cpu() -> str:
    """The CPU's kind and instructions; a cache folder may be shared by different machines."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    lines = re.findall(r"^(?:model name|flags|Features|CPU part)\s*:.*$", text, re.MULTILINE)
    return "\n".join([platform.machine(), platform.processor(), *sorted(set(lines))])

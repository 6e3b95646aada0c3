"""csbench doctor: what this machine has, what is missing, and how to get it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import click
import msgspec

from csbench import __version__
from csbench.backends.tensorrt import release

GIB = 2**30
LEAST_DISK = 2 * GIB  # compiled kernels, checkpoints and records of a whole table
OUTPUT = Path("csbench-results")

# package -> what it is for, and the command that brings it
OPTIONAL = {
    "triton": ("the inductor baseline on GPUs", "pip install 'csbench[gpu]'"),
    "matplotlib": ("figures in reports", "pip install 'csbench[plots]'"),
    "tensorrt": ("the tensorrt backend", release.INSTALL),
    "torchvision": ("models named torchvision:NAME", "pip install torchvision"),
    "timm": ("models named timm:NAME", "pip install timm"),
}


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One finding; `get` says how to get what is missing. What is not `needed` is optional."""

    name: str
    status: Literal["ok", "missing"]
    detail: str
    get: str | None = None
    needed: bool = False


def ok(name: str, detail: str) -> Line:
    return Line(name=name, status="ok", detail=detail)


def missing(name: str, detail: str, get: str | None = None, *, needed: bool = False) -> Line:
    return Line(name=name, status="missing", detail=detail, get=get, needed=needed)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-v", "--verbose", is_flag=True, expose_value=False, help="Show tracebacks.")
def command(as_json: bool) -> None:
    """Say what this machine has, what is missing, and how to get it.

    The exit code is 1 only where csbench can run nothing at all.
    """
    lines: list[Line] = []
    for check in CHECKS:
        for line in _tried(check):
            lines.append(line)
            if not as_json:
                click.echo(_text(line))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(lines), indent=2).decode())
    if any(line.needed for line in lines):
        raise click.exceptions.Exit(1)


def _tried(check: Callable[[], Iterator[Line]]) -> Iterator[Line]:
    """A check's lines; one that fails is a line too, for a doctor must not fall ill."""
    try:
        yield from check()
    except Exception as error:
        yield missing(check.__name__.strip("_"), f"{type(error).__name__}: {error}")


def _text(line: Line) -> str:
    get = f"; {line.get}" if line.get else ""
    return f"{line.name:12} {line.status:8} {line.detail}{get}"


def _python() -> Iterator[Line]:
    version = platform.python_version()
    yield ok("csbench", f"{__version__} in {Path(__file__).resolve().parent.parent}")
    yield ok("python", f"{version} at {sys.executable}")


def _torch() -> Iterator[Line]:
    try:
        import torch
    except ImportError as error:
        yield missing("torch", str(error), "pip install torch", needed=True)
        return
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    yield ok("torch", f"{torch.__version__} ({build}), {torch.get_num_threads()} threads")


def _cpu() -> Iterator[Line]:
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [n for n in info.read_text().splitlines() if n.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield ok("cpu", f"{model}, {usable} of {os.cpu_count()} cores usable")


def _compiler() -> Iterator[Line]:
    from csbench.kernels import build

    lack = build.missing()
    if lack is None:
        yield ok("compiler", " ".join(build.compiler() or ()) + ", compiles the CPU kernels")
    else:
        yield missing("compiler", f"CPU kernels cannot be built: {lack}")


def _gpu() -> Iterator[Line]:
    import torch

    if not torch.cuda.is_available():
        get = None
        if torch.version.cuda is None and shutil.which("nvidia-smi"):
            get = "install a CUDA build of torch (pytorch.org/get-started)"
        yield missing("gpu", "torch sees no CUDA device; csbench runs on the CPU", get)
        return
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        yield ok(
            "gpu",
            f"cuda:{index} {device.name}, {device.total_memory / GIB:.0f} GiB, "
            f"sm_{device.major}{device.minor}, {device.multi_processor_count} SMs",
        )
    cudnn: int | None = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    yield ok("cudnn", str(cudnn)) if cudnn else missing("cudnn", "not in this build of torch")


def _gpu_tools() -> Iterator[Line]:
    import torch

    from csbench.kernels import nvrtc

    if not torch.cuda.is_available():
        return  # one line above says it all
    lack = nvrtc.missing()
    if lack is None:
        yield ok("nvrtc", "{}.{}, compiles the GPU kernels".format(*nvrtc.nvrtc_version()))
    else:
        yield missing("nvrtc", lack)
    yield _nvml(str(torch.cuda.get_device_properties(0).uuid))


def _nvml(uuid: str) -> Line:
    from csbench.bench.nvml import Nvml

    try:
        reading = Nvml(uuid).read()
    except OSError as error:
        return missing("nvml", f"clocks and throttling are not watched: {error}")
    return ok("nvml", f"{reading.sm_mhz} MHz, {reading.watts:.0f} W, {reading.celsius} C")


def _extras() -> Iterator[Line]:
    for package, (purpose, get) in OPTIONAL.items():
        if importlib.util.find_spec(package) is None:
            yield missing(package, f"optional, for {purpose}", get)
            continue
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # a package of another name brought it
            yield ok(package, "of unknown version")
            continue
        lack = release.why_not(version) if package == "tensorrt" else None
        if lack is None:
            yield ok(package, version)
        else:
            yield missing(package, f"optional, for {purpose}: {lack}", get)


def _backends() -> Iterator[Line]:
    """Which backends are ready, by device; without a dense one on any, nothing can be measured."""
    import torch

    from csbench.backends import registry

    listed = registry.listing()
    for device in registry.DENSE_BASELINE:
        ready = [
            item.entry.name
            for item in listed
            if item.backend is not None
            and item.entry.name != "fake"
            and device in item.backend.devices
            and registry.lack(item.backend, device) is None
        ]
        if device == "cuda" and not torch.cuda.is_available():
            continue  # a line above says it all
        detail = f"on {device}: {', '.join(ready) or 'none'}"
        if registry.DENSE_BASELINE[device] in ready:
            yield ok("backends", detail)
        else:
            needed = device == "cpu"  # every machine has one
            yield missing("backends", detail, "csbench backends list says why", needed=needed)
    for item in listed:
        if item.problem is not None:
            yield missing("backends", item.problem)


def _folders() -> Iterator[Line]:
    from csbench.core.cache import cache_dir

    yield _writable("cache", cache_dir, "set CSBENCH_CACHE_DIR to a folder that is")
    yield _writable("output", lambda: OUTPUT, "name another file with -o FILE")


def _writable(name: str, folder: Callable[[], Path], get: str) -> Line:
    """Whether a folder, or the nearest one that exists above it, can be written and has room."""
    try:
        path = folder().resolve()
    except OSError as error:
        return missing(name, f"'{error.filename}' cannot be made: {error.strerror}", get)
    existing = next(p for p in (path, *path.parents) if p.exists())
    if not os.access(existing, os.W_OK):
        return missing(name, f"{existing} is not writable", get)
    free = shutil.disk_usage(existing).free
    detail = f"{path}, {free / GIB:.1f} GiB free"
    if free < LEAST_DISK:
        return missing(name, f"{detail}; a whole table needs {LEAST_DISK / GIB:.0f} GiB", get)
    return ok(name, detail)


CHECKS = (_python, _torch, _cpu, _compiler, _gpu, _gpu_tools, _extras, _backends, _folders)

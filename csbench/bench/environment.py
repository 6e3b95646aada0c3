"""Where a case was measured: enough to explain, years later, why a figure differs.

Keys: `csbench`, `commit`, `python`, `system`, `host` (hashed), `cpu`, `cores`, `threads`,
`isa`, `memory_bytes`, `compiler`, `libraries`, `torch`; on a GPU also `gpu`, `gpu_id` (hashed),
`gpu_index`, `gpu_memory_bytes`, `capability`, `driver`, `cuda`, `cudnn`, `nvcc`. A case adds
`clocks` ({"start", "end"}, each MHz, W, C), `gpu_during` (csbench.bench.nvml.summary),
`joules_per_image`, `sustained_ms` and `sustained_s` (each {"sparse", "baseline"}; by
csbench.bench.energy), `ceilings` (csbench.bench.limits), `launch_bound` (of a layer), `workers`
when several measured at once, and `others` (what else ran meanwhile; csbench.bench.others).
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import socket
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from csbench import __version__
from csbench.bench.nvml import Nvml

_LIBRARIES = (
    "numpy", "safetensors", "triton", "cuda-core", "cuda-bindings", "nvidia-cutlass",
    "nvidia-cusparselt-cu12", "nvidia-cusparselt-cu13", "timm", "torchvision",
)  # fmt: skip
_PACKAGE = Path(__file__).resolve().parents[1]


def host() -> dict[str, Any]:
    """What the machine and the interpreter say, without torch: the parent process knows this."""
    return {
        "csbench": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        # A name would tell outsiders about the network; the hash tells two machines apart.
        "host": _hashed(socket.gethostname()),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def full(device: str) -> dict[str, Any]:
    """The whole environment of a worker on `device` ("cpu" or "cuda"), torch and GPU included."""
    import torch

    found = host() | {
        "threads": torch.get_num_threads(),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "torch": str(torch.__version__),
        "libraries": _libraries() | _onednn(torch.__config__.show()),
        "compiler": _first_line("c++", "--version"),
    }
    return found | _gpu() if device.startswith("cuda") else found


def open_nvml() -> Nvml | None:
    """The worker's GPU as the driver sees it; None where the driver does not let it be read."""
    import torch

    try:
        return Nvml(str(torch.cuda.get_device_properties(0).uuid))
    except (OSError, AttributeError):
        return None


def clocks(gpu: Nvml | None) -> dict[str, Any]:
    """Clock, power and temperature at this moment."""
    if gpu is None:
        return {}
    try:
        now = gpu.read()
    except OSError:
        return {}
    return {
        "sm_mhz": now.sm_mhz,
        "memory_mhz": now.memory_mhz,
        "watts": round(now.watts, 1),
        "celsius": now.celsius,
    }


def _gpu() -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(0)
    gpu = open_nvml()
    uuid = getattr(properties, "uuid", None)  # old versions of torch do not tell
    return {
        "gpu": properties.name,
        "gpu_id": _hashed(str(uuid)) if uuid else None,
        "gpu_index": os.environ.get("CUDA_VISIBLE_DEVICES", "0"),
        "gpu_memory_bytes": properties.total_memory,
        "capability": f"{properties.major}.{properties.minor}",
        "driver": gpu.driver() if gpu else _first_line(
            "nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "nvcc": _last_line("nvcc", "--version"),
    }  # fmt: skip


def _hashed(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def _commit() -> str | None:
    """The source tree's commit, with a + when files differ from it; None for an installed wheel."""
    if not (_PACKAGE.parent / ".git").exists():
        return None
    commit = _output("git", "-C", str(_PACKAGE.parent), "rev-parse", "--short=12", "HEAD").strip()
    changed = _output(
        "git", "-C", str(_PACKAGE.parent), "status", "--porcelain", "--untracked-files=no",
        "--", "csbench",
    )  # fmt: skip
    return commit + ("+" if changed.strip() else "") if commit else None


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return named[1].strip() if named else platform.machine()


def _libraries() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _onednn(configuration: str) -> dict[str, str]:
    named = re.search(r"(?:MKL-DNN|oneDNN) v([\d.]+)", configuration)
    return {"onednn": named[1]} if named else {}


def _first_line(*command: str) -> str | None:
    return next(iter(_output(*command).strip().splitlines()), None)


def _last_line(*command: str) -> str | None:
    return next(reversed(_output(*command).strip().splitlines()), None)


def _output(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""

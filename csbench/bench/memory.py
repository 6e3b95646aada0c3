"""Memory: the most that a run needs, what there is, and what happens to who asks for more."""

from __future__ import annotations

import gc
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

SHARE = 0.95  # of the memory that there is: the allocator's pieces do not fit together perfectly
_CGROUP = "/sys/fs/cgroup/memory."
_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def peak_of(run: Callable[[], object], device: str, before: int) -> int | None:
    """Bytes at the peak of one run.

    On a GPU those above `before` (see in_use): weights as stored, workspace and activations of
    what was lowered since. On a CPU the whole process's resident memory; None where the system
    does not count it.
    """
    if device.startswith("cuda"):
        run()  # where libraries search at their first run, with workspace that no later one needs
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    try:
        _CLEAR.write_text("5")  # forget the peak so far
    except OSError:
        return None
    run()
    peak = re.search(r"^VmHWM:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    return int(peak[1]) * 1024 if peak else None


def in_use(device: str) -> int:
    """Bytes of GPU memory in use now; 0 on a CPU."""
    return torch.cuda.memory_allocated() if device.startswith("cuda") else 0


def let_go() -> None:
    """Free what nothing refers to any more, and what torch keeps of a GPU's memory for later."""
    gc.collect()
    torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on a CPU."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def capacity(device: str) -> int:
    """Bytes that a case may take in all: the GPU's, or what this process has and what is free."""
    if device == "cuda":
        total: int = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        return total
    return _number("/proc/self/status", "VmRSS:") + free_memory()


def free_share(device: str) -> float:
    """How much of the memory for this process is free, between 0 and 1."""
    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        return free / total
    return free_memory() / max(1, capacity(device))


@contextmanager
def bounded(device: str) -> Iterator[None]:
    """On a CPU: a process that asks for more than is free is told so, instead of being killed."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    if device == "cpu" and (free := free_memory()):
        most = _number("/proc/self/status", "VmSize:") + int(SHARE * free)
        resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def free_memory() -> int:
    """Bytes that this process can still get from the machine, its container and its own limit."""
    free = [_number("/proc/meminfo", "MemAvailable:")]
    most, of_files = Path("/sys/fs/cgroup/memory.max"), _number(_CGROUP + "stat", "inactive_file")
    if most.is_file() and (text := most.read_text().strip()) != "max":
        free.append(int(text) - int(Path(_CGROUP + "current").read_text()) + of_files)
    own, _ = resource.getrlimit(resource.RLIMIT_AS)
    if own != resource.RLIM_INFINITY:
        free.append(own - _number("/proc/self/status", "VmSize:"))
    return max(0, min(free))


def _number(path: str, name: str) -> int:
    """Bytes on the line of that name of a file of the system; 0 where there is none."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return 0
    fields = next((line.split() for line in lines if line.startswith(name)), [name, "0"])
    return int(fields[1]) * (1024 if fields[-1] == "kB" else 1)

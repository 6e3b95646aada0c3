"""Which batch would fit, from the memory that small batches were measured to take."""

from __future__ import annotations

import gc
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from msgspec.structs import replace

from csbench.bench.memory import in_use, peak_of
from csbench.core.case import Case
from csbench.training.ranks import Ranks
from csbench.training.setup import Options, Setup

_CGROUP = "/sys/fs/cgroup/memory."
_SHARE = 0.95  # of the memory: the allocator's pieces do not fit together perfectly


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on a CPU."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def suggestion(case: Case, options: Options) -> str:
    """A line about the largest batch that would fit, by two small batches' peaks."""
    few, more = max(1, case.batch // 16), max(2, case.batch // 8)
    peaks = [_peak(replace(case, batch=batch), options) for batch in (few, more)]
    if peaks[0] is None:
        return f"not even a batch of {few} fits; take a smaller --model or --input-size"
    if peaks[1] is None:
        return f"a batch of {few} fits; type -b {few}"
    each = max(1.0, (peaks[1] - peaks[0]) / (more - few))
    fits = few + int((_SHARE * capacity(case.device) - peaks[0]) / each)
    if not more < fits < case.batch:  # the peaks of small batches tell too little
        return f"a batch of {more} fits; type -b {more}"
    fits -= fits % 8 if fits > 8 else 0
    return f"about {each / 2**20:.0f} MiB an image: a batch of {fits} should fit; type -b {fits}"


def capacity(device: str) -> int:
    """Bytes that a case may take in all: the GPU's, or what this process has and what is free."""
    if device == "cuda":
        total: int = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        return total
    return _number("/proc/self/status", "VmRSS:") + free_memory()


@contextmanager
def bounded(device: str) -> Iterator[None]:
    """On a CPU: a process that asks for more than is free is told so, instead of being killed."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    if device == "cpu" and (free := free_memory()):
        most = _number("/proc/self/status", "VmSize:") + int(_SHARE * free)
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


def _peak(case: Case, options: Options) -> int | None:
    """Bytes that a step of this batch needs at most; None where it does not fit."""
    gc.collect()
    if case.device == "cuda":
        torch.cuda.empty_cache()
    try:
        setup = Setup(case, options._replace(save=None), Ranks())
        source, before = setup.source(), in_use(case.device)
        trainer = setup.trainer()
        trainer.step(source.batch())  # from now on the momentum is there
        return peak_of(lambda: trainer.step(source.batch()), case.device, before)
    except Exception as error:
        if out_of_memory(error):
            return None
        raise

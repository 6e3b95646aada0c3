"""What else ran while a case was measured: other processes on the same cores, on the same GPU."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

from csbench.bench.nvml import Nvml

CROWDED = 0.1  # of the cores' time, above which it is said that other processes took it
_SHORTEST_S = 0.5  # of a block: Linux looks at a core only every few milliseconds
# What the counts may fall short of this process's own time by, as a share of all; if by more, they
# are not of these cores (some containers show none, or others).
_SHORT = 0.05
_STAT, _THREADS = Path("/proc/stat"), Path("/proc/self/task")
# user, nice, system, irq, softirq, and what the host of a virtual machine took (steal)
_BUSY_FIELDS = (1, 2, 3, 6, 7, 8)


class _Moment(NamedTuple):
    """Seconds on the clock, of work on the cores by all, and by this process; others on the GPU."""

    at: float
    busy: float | None
    own: float
    on_gpu: int | None


class Others:
    """Looks at other processes for the length of a block; `found` is what a record holds of them.

    `cores`: how many of `of_cores`, the logical ones that this process may use, others kept busy in
    the mean; `gpu_processes`: others with a context on the GPU, before or after. Keys are left out
    where the system does not say.
    """

    def __init__(self, gpu: Nvml | None = None) -> None:
        self._gpu = gpu
        self.found: dict[str, float] = {}

    def __enter__(self) -> Others:
        self._cores = _cores()
        self._before = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        before, after = self._before, self._now()
        took, of_cores = after.at - before.at, len(self._cores)
        if before.busy is not None and after.busy is not None and took >= _SHORTEST_S:
            others = (after.busy - before.busy - (after.own - before.own)) / took
            if others >= -_SHORT * of_cores:
                self.found |= {"cores": round(max(0.0, others), 2), "of_cores": of_cores}
        seen = [moment.on_gpu for moment in (before, after) if moment.on_gpu is not None]
        if seen:
            self.found["gpu_processes"] = max(seen)

    def note(self, *, on_cores: bool) -> str | None:
        """What a table should say of them; of cores only where they were waited for."""
        said = []
        if on_cores and self.found.get("cores", 0) > CROWDED * self.found.get("of_cores", 0):
            said.append(
                f"other processes took more than {100 * CROWDED:g} % of the cores' time: "
                "end them, or leave them a core (--threads)"
            )
        if self.found.get("gpu_processes"):
            said.append("other processes were on this GPU")
        return "; ".join(said) or None

    def _now(self) -> _Moment:
        processes = None if self._gpu is None else self._gpu.processes()
        on_gpu = processes - 1 if processes else None  # without this one
        return _Moment(time.perf_counter(), _busy_s(self._cores), time.process_time(), on_gpu)


def _cores() -> set[int]:
    """The cores that any thread of this process may use: OpenMP may pin each to one."""
    try:
        threads = [int(thread.name) for thread in _THREADS.iterdir()]
        return set().union(*(os.sched_getaffinity(thread) for thread in threads))
    except (OSError, AttributeError):  # no Linux, or a thread that ended just now
        return set()


def _busy_s(cores: set[int]) -> float | None:
    """Seconds of work by all processes on these cores since they started; None if not counted."""
    try:
        lines = [line.split() for line in _STAT.read_text().splitlines()]
    except OSError:
        return None
    names = {f"cpu{core}" for core in cores}
    counted = [fields for fields in lines if fields and fields[0] in names]
    ticks = sum(int(fields[n]) for fields in counted for n in _BUSY_FIELDS)
    return ticks / os.sysconf("SC_CLK_TCK") if counted else None

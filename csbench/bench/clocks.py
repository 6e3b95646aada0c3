"""Clocks: how long a run takes, on the host, on a GPU, or by a script in tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import cycle
from typing import Any, Protocol

Run = Callable[[], object]


class Clock(Protocol):
    """Times runs, and knows how much of the budget is spent."""

    def now(self) -> float:
        """Seconds since some moment."""

    def sample(self, run: Run, count: int) -> float:
        """Milliseconds of one run, as the mean of `count` runs one after another."""


class HostClock:
    """The host's clock, for work that is done when the call returns.

    `flush`, when given, empties the caches before each run, outside the timed window.
    """

    def __init__(self, flush: Run | None = None) -> None:
        self._flush = flush

    def now(self) -> float:
        return time.perf_counter()

    def sample(self, run: Run, count: int) -> float:
        if self._flush is None:
            start = time.perf_counter_ns()
            for _ in range(count):
                run()
            return (time.perf_counter_ns() - start) / count / 1e6
        spent = 0
        for _ in range(count):
            self._flush()
            start = time.perf_counter_ns()
            run()
            spent += time.perf_counter_ns() - start
        return spent / count / 1e6


class CudaClock:
    """CUDA events on the current stream, for work that is queued on it.

    A short spin of the GPU precedes each window, so that the host has queued the work before the
    first event passes: otherwise the first launch would be timed with it.
    """

    _SPIN_CYCLES = 200_000  # about 0.1 ms

    def __init__(self, flush: Run | None = None) -> None:
        self._flush = flush

    def now(self) -> float:
        return time.perf_counter()

    def sample(self, run: Run, count: int) -> float:
        import torch

        windows = 1 if self._flush is None else count
        events: list[tuple[Any, Any]] = [
            (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))  # type: ignore[no-untyped-call]
            for _ in range(windows)
        ]
        torch.cuda._sleep(self._SPIN_CYCLES)  # type: ignore[no-untyped-call]
        for start, end in events:
            if self._flush is not None:
                self._flush()
            start.record()
            for _ in range(count // windows):
                run()
            end.record()
        torch.cuda.synchronize()
        return sum(float(start.elapsed_time(end)) for start, end in events) / count


class ScriptedClock:
    """Times from a script instead of from a machine: each run has its row of milliseconds.

    A row is repeated when it ends. Sampling calls the run once and moves `now` on by its time.
    """

    def __init__(self, script: Mapping[Run, Iterable[float]]) -> None:
        self._rows: dict[Run, Iterator[float]] = {run: cycle(row) for run, row in script.items()}
        self._now = 0.0

    def now(self) -> float:
        return self._now

    def sample(self, run: Run, count: int) -> float:
        run()
        milliseconds = next(self._rows[run])
        self._now += milliseconds * count / 1e3
        return milliseconds

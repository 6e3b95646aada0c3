"""Choosing the fastest of a few ways on a CPU: timed in turns, so that a disturbance hits all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median


def fastest(candidates: Mapping[str, Callable[[], object]], rounds: int = 5) -> str:
    """The name of the candidate with the least median time; the first call of each is not timed."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for run in candidates.values():
        run()
    for _ in range(rounds):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return min(times, key=lambda name: median(times[name]))

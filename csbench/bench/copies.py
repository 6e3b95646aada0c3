"""Copies of what is timed: lowered afresh, at addresses of their own, each proved right.

One network lowered twice takes two times: its memory lies elsewhere, and what was chosen by timing
may be chosen otherwise. Samples of one copy show nothing of it, however many.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from csbench.bench.capture import Replay
from csbench.bench.memory import free_share, let_go, out_of_memory
from csbench.core.stop import StopRule

# Copies differ more on a CPU and cost less there (docs/measurement.md).
MOST = {"cpu": 8, "cuda": 3}
_LEAST_FREE = 0.5  # of the memory: what comes after the copies needs room too


def wanted(stop: StopRule, device: str) -> int:
    """How many copies of each network are sampled, where time and memory allow."""
    copies = stop.copies or MOST[device]
    return copies if stop.runs is None else min(copies, stop.runs)


def grow(copies: list[Replay], make: Callable[[], Replay], count: int, seconds: float) -> None:
    """Add copies up to `count`, while there is room and making them took less than `seconds`.

    One that cannot be a CUDA graph as the first one is does not count.
    """
    device = "cuda" if copies[0].on_gpu else "cpu"
    begun = time.perf_counter()
    while len(copies) < count and time.perf_counter() - begun < seconds:
        if not _room(device):
            return
        made = _made(make)
        if made is None or made.mode != copies[0].mode:
            let_go()
            return
        copies.append(made)


def _made(make: Callable[[], Replay]) -> Replay | None:
    """None where memory ran out; what the error holds of it is free when this returns."""
    try:
        return make()
    except Exception as error:
        if not out_of_memory(error):
            raise
        return None


def _room(device: str) -> bool:
    """Whether enough memory is free, when need be without what torch keeps for later."""
    if free_share(device) >= _LEAST_FREE:
        return True
    let_go()
    return free_share(device) >= _LEAST_FREE

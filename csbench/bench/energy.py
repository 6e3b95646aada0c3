"""Energy of a run, from the GPU's own counter."""

from __future__ import annotations

import math
from weakref import WeakKeyDictionary

from csbench.bench.clocks import Clock, Run
from csbench.bench.nvml import Nvml

# The counter moves every 20 to 100 ms; a second of work reads it to a few percent.
_SECONDS = 1.0


class EnergyMeter:
    """Joules of one run of the whole GPU, idle share included.

    A run that several cases share (their baseline) is metered once.
    """

    def __init__(self, gpu: Nvml | None) -> None:
        self._gpu = gpu
        self._known: WeakKeyDictionary[Run, float] = WeakKeyDictionary()

    def joules(self, run: Run, milliseconds: float, clock: Clock) -> float | None:
        """Of a run that takes so long; None where the GPU does not count energy."""
        if run not in self._known:
            measured = self._measure(run, math.ceil(_SECONDS * 1e3 / milliseconds), clock)
            if measured is None:
                return None
            self._known[run] = measured
        return self._known[run]

    def _measure(self, run: Run, count: int, clock: Clock) -> float | None:
        before = self._gpu.joules() if self._gpu is not None else None
        if self._gpu is None or before is None:
            return None
        clock.sample(run, count)
        after = self._gpu.joules()
        return None if after is None else (after - before) / count

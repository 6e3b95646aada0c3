"""A run under sustained load: its energy by the GPU's own counter, and its time."""

from __future__ import annotations

import math
from typing import NamedTuple
from weakref import WeakKeyDictionary

from csbench.bench.clocks import Clock, Run
from csbench.bench.nvml import Nvml

# The counter moves every 20 to 100 ms; a second of work reads it to a few percent.
_SECONDS = 1.0


class Sustained(NamedTuple):
    """A second of one run back to back: of each the joules and milliseconds, of all the seconds.

    Samples are windows of a few milliseconds; a GPU that slows down under load shows it here.
    """

    joules: float
    milliseconds: float
    seconds: float


class EnergyMeter:
    """Loads of the whole GPU by one run each, idle share included.

    A run that several cases share (their baseline) is metered once.
    """

    def __init__(self, gpu: Nvml | None) -> None:
        self._gpu = gpu
        self._known: WeakKeyDictionary[Run, Sustained] = WeakKeyDictionary()

    def sustained(self, run: Run, milliseconds: float, clock: Clock) -> Sustained | None:
        """Of a run that takes about so long; None where the GPU does not count energy."""
        if run not in self._known:
            measured = self._measure(run, math.ceil(_SECONDS * 1e3 / milliseconds), clock)
            if measured is None:
                return None
            self._known[run] = measured
        return self._known[run]

    def _measure(self, run: Run, count: int, clock: Clock) -> Sustained | None:
        before = self._gpu.joules() if self._gpu is not None else None
        if self._gpu is None or before is None:
            return None
        each = clock.sample(run, count)
        after = self._gpu.joules()
        if after is None:
            return None
        return Sustained((after - before) / count, each, each * count / 1e3)

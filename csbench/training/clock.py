"""How a step is timed: as one of many that follow each other, as in a training."""

from __future__ import annotations

from csbench.bench.clocks import Clock, Run


class StepClock:
    """Times steps on a GPU that is still busy with an untimed step before them.

    Alone, a step would begin on an idle GPU and wait for the host to queue its first kernels: two
    to eight per cent that no training pays, most of it for whatever stands at the start of a step.
    """

    def __init__(self, own: Clock) -> None:
        self._own = own

    def now(self) -> float:
        return self._own.now()

    def sample(self, run: Run, count: int) -> float:
        run()
        return self._own.sample(run, count)


def step_clock(own: Clock, device: str) -> Clock:
    """A clock for steps; on a CPU, where nothing is queued, the clock itself."""
    return StepClock(own) if device == "cuda" else own

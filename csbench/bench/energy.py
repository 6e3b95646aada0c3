"""Energy of a run, from the GPU's own counter."""

from __future__ import annotations

import math

from csbench.bench.clocks import Clock, Run
from csbench.bench.nvml import Nvml

# The counter moves every 20 to 100 ms; a second of work reads it to a few percent.
_SECONDS = 1.0


def joules_per_run(run: Run, milliseconds: float, clock: Clock, gpu: Nvml | None) -> float | None:
    """Energy of one run of the whole GPU, idle share included; None where it does not count it."""
    before = gpu.joules() if gpu is not None else None
    if gpu is None or before is None:
        return None
    count = math.ceil(_SECONDS * 1e3 / milliseconds)
    clock.sample(run, count)
    after = gpu.joules()
    return None if after is None else (after - before) / count

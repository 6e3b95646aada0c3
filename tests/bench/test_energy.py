"""Sustained load by an invented counter: joules and time of one run, once if cases share it."""

from __future__ import annotations

from typing import Any, cast

import pytest

from csbench.bench.clocks import ScriptedClock
from csbench.bench.energy import EnergyMeter
from csbench.bench.nvml import Nvml


class Counter:
    """A GPU that draws 500 W while the clock runs."""

    def __init__(self, clock: ScriptedClock) -> None:
        self.clock, self.read = clock, 0

    def joules(self) -> float:
        self.read += 1
        return 500 * self.clock.now()


def run() -> None:
    """Something to time."""


def meter(gpu: Any) -> EnergyMeter:
    return EnergyMeter(cast(Nvml, gpu))


def test_joules_are_watts_times_the_time_of_a_run() -> None:
    clock = ScriptedClock({run: [4.0]})
    found = meter(Counter(clock)).sustained(run, 4.0, clock)
    assert found is not None and found.joules == pytest.approx(500 * 0.004)


def test_a_second_of_load_tells_the_time_that_samples_did_not() -> None:
    clock = ScriptedClock({run: [5.0]})
    found = meter(Counter(clock)).sustained(run, 4.0, clock)
    assert found is not None
    assert (found.milliseconds, found.seconds) == (5.0, pytest.approx(250 * 0.005))


def test_a_run_that_cases_share_is_metered_once() -> None:
    clock = ScriptedClock({run: [4.0]})
    counter = Counter(clock)
    shared = meter(counter)
    assert shared.sustained(run, 4.0, clock) == shared.sustained(run, 4.1, clock)
    assert counter.read == 2


def test_a_gpu_that_counts_no_energy_has_none() -> None:
    class Silent:
        def joules(self) -> None:
            return None

    clock = ScriptedClock({run: [4.0]})
    assert meter(None).sustained(run, 4.0, clock) is None
    assert meter(Silent()).sustained(run, 4.0, clock) is None
    assert clock.now() == 0

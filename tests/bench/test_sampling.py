"""Sampling by a scripted clock: order, stop rule and verdicts, with no real time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import chain, count, cycle, repeat

import pytest

from csbench.bench.clocks import Run, ScriptedClock
from csbench.bench.sampling import (
    FEWEST_PAIRS,
    SHORTEST_SAMPLE_MS,
    Pairs,
    calibrate,
    remembers,
    sample_alone,
    sample_pairs,
)
from csbench.core.stop import StopRule
from tests.bench.coverage import coverage


class Named:
    """A run that writes its name down each time it is called."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def __call__(self) -> None:
        self.log.append(self.name)


def noisy(center: float, spread: float, seed: int) -> Iterator[float]:
    draw = random.Random(seed)
    return (center * (1 + spread * draw.uniform(-1, 1)) for _ in count())


def measure(
    stop: StopRule, sparse: Iterator[float], dense: Iterator[float], seed: int = 0
) -> tuple[Pairs, list[str]]:
    log: list[str] = []
    run, baseline = Named("A", log), Named("B", log)
    clock = ScriptedClock({run: sparse, baseline: dense})
    return sample_pairs(clock, (run,), (baseline,), stop, seed=seed), log


def test_runs_are_interleaved_in_pairs_that_start_with_either_equally_often() -> None:
    stop = StopRule(warmup=2, runs=20)
    pairs, log = measure(stop, noisy(10, 0.01, 1), noisy(20, 0.01, 2))
    assert log[:6] == ["A", "A", "B", "B", "A", "B"]  # warm-up, then one calibration each
    timed = ["".join(log[i : i + 2]) for i in range(6, len(log), 2)]
    assert len(timed) == 20
    assert timed.count("AB") == timed.count("BA") == 10
    assert timed != ["AB", "BA"] * 10
    assert len(pairs.samples_ms) == len(pairs.baseline_samples_ms) == len(pairs.spans) == 20


@pytest.mark.parametrize(("warmup", "expected"), [(0, ""), (1, "012"), (5, "01201")])
def test_untimed_runs_go_round_the_copies(warmup: int, expected: str) -> None:
    log: list[str] = []
    sides = [[Named(f"{side}{i}", log) for i in range(3)] for side in "AB"]
    clock = ScriptedClock({run: noisy(10, 0.01, 1) for side in sides for run in side})
    sample_pairs(clock, *sides, StopRule(warmup=warmup, runs=3))
    before = log[: 2 * len(expected)]
    assert before == [f"{side}{i}" for side in "AB" for i in expected]


def test_the_order_depends_on_the_seed_alone() -> None:
    logs = [
        measure(StopRule(runs=40), noisy(10, 0, 1), noisy(20, 0, 2), seed)[1] for seed in (1, 1, 2)
    ]
    assert logs[0] == logs[1] != logs[2]


def test_a_quiet_machine_stops_when_the_minimum_time_is_spent() -> None:
    stop = StopRule(min_time=2.0, max_time=60.0)
    pairs, _ = measure(stop, noisy(10, 0.001, 1), noisy(30, 0.001, 2))
    assert pairs.settled
    assert 2.0 / 0.040 <= len(pairs.samples_ms) <= 2.0 / 0.040 + 2
    assert pairs.speedup.ratio == pytest.approx(3, rel=0.01)


def test_noise_is_measured_until_the_interval_is_narrow() -> None:
    stop = StopRule(min_time=0.1, max_time=1000.0, max_noise=0.01)
    pairs, _ = measure(stop, noisy(10, 0.1, 1), noisy(20, 0.1, 2))
    assert pairs.settled
    assert pairs.speedup.half_width < 0.01
    assert len(pairs.samples_ms) > FEWEST_PAIRS


@pytest.mark.parametrize("spread", [0.005, 0.01])
def test_ending_at_the_first_good_look_keeps_the_interval_honest(spread: float) -> None:
    """Copies of one network, 0.2 % apart, against each other, by the default target."""
    found = coverage(apart=0.002, spread=spread, target=0.01, trials=400)
    assert found.settled > 0.99
    assert found.held >= 0.93


def test_running_out_of_time_is_said_and_keeps_the_samples() -> None:
    stop = StopRule(min_time=0.1, max_time=3.0, max_noise=0.0001)
    pairs, _ = measure(stop, noisy(10, 0.3, 1), noisy(20, 0.3, 2))
    assert not pairs.settled
    assert 3.0 / 0.030 * 0.9 <= len(pairs.samples_ms) <= 3.0 / 0.030 * 1.1 + 1


def test_a_slow_case_takes_a_few_pairs_and_is_not_called_settled() -> None:
    stop = StopRule(min_time=1.0, max_time=10.0)
    pairs, _ = measure(stop, noisy(60_000, 0, 1), noisy(60_000, 0, 2))
    assert len(pairs.samples_ms) == 3
    assert not pairs.settled


def test_fixed_runs_are_exactly_that_many() -> None:
    stop = StopRule(runs=5, min_time=100.0, max_time=1000.0)
    pairs, _ = measure(stop, noisy(10, 0, 1), noisy(20, 0, 2))
    assert len(pairs.samples_ms) == 5
    assert pairs.settled


def test_outliers_are_kept() -> None:
    spikes = (10.0 if i % 9 else 900.0 for i in count())
    pairs, _ = measure(StopRule(runs=30), spikes, noisy(20, 0, 2))
    assert max(pairs.samples_ms) == 900.0
    assert pairs.speedup.ratio == pytest.approx(2)


def test_a_run_is_not_its_own_baseline() -> None:
    run = Named("A", [])
    with pytest.raises(ValueError, match="lower it twice"):
        sample_pairs(ScriptedClock({run: [1.0]}), (run,), (run,), StopRule())


class LinearClock(ScriptedClock):
    """Every run takes the same time, however many are timed at once."""

    def __init__(self, run: Run, milliseconds: float) -> None:
        super().__init__({run: [milliseconds]})


@pytest.mark.parametrize("milliseconds", [1e-4, 0.003, 0.7, 4.9, 5.0, 80.0])
def test_a_sample_is_long_enough_to_time_but_not_much_longer(milliseconds: float) -> None:
    run = Named("A", [])
    times = calibrate(LinearClock(run, milliseconds), run)
    assert times * milliseconds >= SHORTEST_SAMPLE_MS
    assert times == 1 or times * milliseconds <= 2 * SHORTEST_SAMPLE_MS


def test_a_clock_that_stands_still_does_not_calibrate_for_ever() -> None:
    run = Named("A", [])
    assert calibrate(LinearClock(run, 0.0), run) == 1 << 20


def test_sampling_alone_gives_the_count_asked_for() -> None:
    run = Named("A", [])
    assert sample_alone(ScriptedClock({run: [7.0, 8.0]}), run, 3) == [8.0, 7.0, 8.0]


@pytest.mark.parametrize(("new", "caught"), [(40.0, True), (11.0, False), (19.0, False)])
def test_a_run_that_remembers_takes_longer_on_every_new_input(new: float, caught: bool) -> None:
    log: list[str] = []
    run = Named("run", log)
    clock = ScriptedClock({run: cycle([10.0, new])})
    assert remembers(clock, run, lambda: log.append("renew")) is caught
    assert log[:3] == ["run", "renew", "run"]


def test_one_new_input_as_fast_as_a_seen_one_clears_a_run() -> None:
    run = Named("run", [])
    clock = ScriptedClock({run: chain([10.0, 90.0, 10.0, 90.0, 10.0, 12.0], repeat(10.0, 99))})
    assert not remembers(clock, run, lambda: None)

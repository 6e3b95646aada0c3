"""Hours from samples: exact on constant ones, an interval that covers, a self-check that tells."""

from __future__ import annotations

import pytest

from csbench.core.projection import Part, flops_ratio, held_out_error, hours, total
from csbench.core.training import EventReport, Flops, HeldOut, PhaseReport, Recipe, TrainingReport


def report(
    step_ms: tuple[float, ...] = (36.0, 36.0), decay: float = 0.0, **more: object
) -> TrainingReport:
    given = {
        "phases": (
            PhaseReport(name="pruning", steps=60_000, samples_ms=step_ms, density=0.8),
            PhaseReport(name="fixed mask", steps=40_000, samples_ms=(18.0,), density=0.5),
        ),
        "events": (EventReport(name="mask update", count=600, samples_ms=(60.0, 60.0)),),
    } | more
    return TrainingReport(recipe=Recipe(scheme="", method="", decay=decay), **given)  # type: ignore[arg-type]


def test_hours_are_the_sum_of_all_that_the_schedule_holds() -> None:
    found = hours(report())
    assert found is not None
    expected = (60_000 * 36 + 40_000 * 18 + 600 * 60) / 3.6e6
    assert found.value == pytest.approx(expected)
    assert (found.low, found.high) == (found.value, found.value)


def test_the_interval_is_carried_through() -> None:
    noisy = tuple(36.0 + (i % 5 - 2) for i in range(40))
    found = hours(report(noisy))
    assert found is not None
    half = (found.high - found.low) / 2
    # The mean of 40 samples of standard deviation sqrt(2): 1.96 sqrt(2 / 40) ms a step.
    assert half == pytest.approx(60_000 * 1.96 * (2 / 40) ** 0.5 / 3.6e6, rel=0.15)
    assert found.low < found.value < found.high


def test_what_was_not_timed_is_not_projected() -> None:
    assert total([Part(10, ())]) is None
    assert hours(TrainingReport(recipe=Recipe(scheme="", method=""))) is None


def test_the_self_check_compares_a_window_with_its_prediction() -> None:
    held = HeldOut(phase="pruning", steps=100, events=1, measured_ms=4000.0)
    assert held_out_error(report(held_out=held)) == pytest.approx((3600 + 60) / 4000 - 1)
    assert held_out_error(report()) is None


def test_sr_ste_computes_the_weight_gradient_densely() -> None:
    flops = Flops(dense_step=10.0, sparsified_step=8.0)
    mean = (0.6 * 0.8 + 0.4 * 0.5) * 8
    assert flops_ratio(report(flops=flops)) == pytest.approx((2 + mean) / 10)
    straight = flops_ratio(report(flops=flops, decay=2e-4))
    assert straight == pytest.approx((2 + 8 / 3 + 2 / 3 * mean) / 10)

"""The cubic schedule and the learning rates."""

from __future__ import annotations

import pytest

from csbench.core.training import Recipe
from csbench.training.schedule import Gradual, learning_rate


def test_sparsity_follows_the_cubic_rule() -> None:
    gradual = Gradual(final=0.8, begin=0.25, end=0.75, interval=10)
    assert gradual.at(0, 400) is None and gradual.at(99, 400) is None
    assert gradual.at(100, 400) == 0.0
    # Zhu and Gupta, 2017: s = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3
    assert gradual.at(200, 400) == pytest.approx(0.8 * (1 - 0.5**3))
    assert gradual.at(205, 400) is None
    assert gradual.at(300, 400) == 0.8
    assert gradual.at(301, 400) is None


def test_after_the_ramp_masks_are_chosen_at_the_final_sparsity() -> None:
    gradual = Gradual(final=0.75, begin=0.0, end=0.5, interval=1, ramp=0.5)
    assert gradual.at(24, 100) != 0.75
    assert [gradual.at(step, 100) for step in (25, 30, 50)] == [0.75] * 3


@pytest.mark.parametrize("begin", [0.0, 0.1])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 7, 100])
def test_a_schedule_of_any_length_reaches_the_final_sparsity(begin: float, steps: int) -> None:
    gradual = Gradual(final=0.75, begin=begin, end=0.5, interval=100)
    chosen = [gradual.at(step, steps) for step in range(steps)]
    assert [sparsity for sparsity in chosen if sparsity is not None][-1] == 0.75
    first, last = gradual.bounds(steps)
    assert 0 <= first <= last < steps


def test_density_is_the_mean_over_the_stretch() -> None:
    gradual = Gradual(final=0.5, begin=0.0, end=1.0, interval=1)
    kept = [1 - (gradual.at(step, 1000) or 0.0) for step in range(1000)]
    assert gradual.density(1000) == pytest.approx(sum(kept) / 1000)


def test_learning_rates_warm_up_and_start_anew_for_the_second_stage() -> None:
    one = Recipe(scheme="", method="", warmup_epochs=1)
    assert learning_rate(one, 0, 100, 10) == pytest.approx(0.01)
    assert learning_rate(one, 10, 100, 10) == pytest.approx(0.1)
    assert learning_rate(one, 99, 100, 10) < 1e-4
    two = Recipe(scheme="", method="", finetune_lr=0.02)
    assert learning_rate(two, 49, 100, 10) < 1e-3
    assert learning_rate(two, 50, 100, 10) == 0.02

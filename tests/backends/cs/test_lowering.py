"""The power of two that values are stored times."""

from __future__ import annotations

import math

import pytest

from csbench.backends.cs.lowering import power_for


@pytest.mark.parametrize(
    ("peak", "power"), [(1.0, 256.0), (200.0, 1.0), (256.0, 1.0), (257.0, 0.5), (2.0**20, 2.0**-12)]
)
def test_it_brings_the_peak_to_at_most_two_to_the_eighth(peak: float, power: float) -> None:
    assert power_for(peak) == power


@pytest.mark.parametrize("peak", [0.0, math.inf, math.nan])
def test_a_peak_that_says_nothing_changes_nothing(peak: float) -> None:
    assert power_for(peak) == 1.0


def test_no_power_is_beyond_what_float32_holds() -> None:
    assert power_for(1e-300) == 2.0**100

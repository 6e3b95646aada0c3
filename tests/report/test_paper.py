"""Published values are whole and agree with themselves; the verdict on comparing with them."""

from __future__ import annotations

import pytest

from csbench.report.paper import compare, published


@pytest.mark.parametrize("backend", ["block-cutlass", "block-original"])
def test_published_speedups_follow_from_the_published_times(backend: str) -> None:
    lines = published("table11")["rows"]
    zero = lines[0][backend]["time_ms"]
    assert [line["sparsity_percent"] for line in lines] == [0, 50, 75, 87.5, 93.75]
    for line in lines:
        assert line[backend]["speedup"] == pytest.approx(zero / line[backend]["time_ms"], abs=0.006)


def test_training_settings_fill_their_table() -> None:
    table = published("table10")
    assert all(len(line["values"]) == len(table["columns"]) for line in table["rows"])


def test_published_hours_have_the_ratio_the_source_calls_similar() -> None:
    hours = published("training_hours")["hours"]
    assert round(hours["cs"] / hours["nm"], 3) == 0.998


def test_what_neither_side_contradicts_is_unknown() -> None:
    made = compare({"device": "GPU", "batch": ""}, {"device": "GPU", "batch": "1"})
    assert made.verdict == "unknown"
    assert "batch (1)" in str(made) and "same: device" in str(made)


def test_what_was_not_measured_is_unknown_not_different() -> None:
    assert compare({"GPU": "V100"}, {"GPU": ""}).verdict == "unknown"


def test_a_difference_makes_them_not_comparable() -> None:
    made = compare({"device": "GPU", "batch": ""}, {"device": "CPU", "batch": "1"})
    assert made.verdict == "not comparable"
    assert "device differs (GPU published, CPU measured)" in str(made)


def test_equal_settings_are_comparable() -> None:
    assert compare({"dtype": "fp32"}, {"dtype": "fp32"}).verdict == "comparable"

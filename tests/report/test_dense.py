"""Which time a dense way has, where records hold several of it."""

from __future__ import annotations

import pytest

from csbench.core.record import Record
from csbench.report.dense import Way
from csbench.report.rows import Estimate, rows
from tests.report.made import record

BESIDE = {"cs-dense fp32": 3.272}


def dense(ms: float, **case: object) -> Record:
    """A row of cs-dense itself, on three copies."""
    given = {"pattern": "dense", "backend": "cs-dense", "copies": 3, **case}
    return record(0.0, ms, 14.9, dense=BESIDE, **given)  # type: ignore[arg-type]


def way(records: list[Record], name: str = "cs-dense fp32") -> Way:
    return next(found for found in rows(records)[0].dense if found.name == name)


def test_a_row_of_several_copies_counts_before_side_figures_however_often_they_are_repeated() -> (
    None
):
    repeated = [record(s, 2.7, 14.9, copies=3, dense=BESIDE) for s in (0.5, 0.75, 0.875)]
    assert way(repeated).time_ms == pytest.approx(3.272, rel=5e-3)
    made = way([*repeated, dense(3.231)])
    assert made.time_ms == pytest.approx(3.231, rel=5e-3)
    assert made.copies == 3
    assert rows([*repeated, dense(3.231)])[-1].over_best == Estimate(1.0)


def test_a_pair_counts_before_side_figures_on_one_copy_too() -> None:
    paired = record(0.5, 2.0, 14.9, dense={"cudnn fp32": 13.0})
    beside = record(0.5, 2.0, 1.9, dtype="fp16", dense={"cudnn fp32": 13.0})
    assert way([paired, beside], "cudnn fp32").time_ms == pytest.approx(14.9, rel=5e-3)


def test_samples_that_are_repeated_count_once() -> None:
    once, twice = {"cs-dense fp32": 3.0}, {"cs-dense fp32": 5.0}
    made = [record(0.5, dense=once), *(record(s, dense=twice) for s in (0.75, 0.875))]
    assert way(made).time_ms == pytest.approx(3.0, rel=5e-3)


def test_of_two_in_the_middle_the_faster_is_the_bar_and_of_three_the_middle_one() -> None:
    two = [dense(3.4), dense(3.2, baseline="onednn")]
    assert way(two).time_ms == pytest.approx(3.2, rel=5e-3)
    assert way([*two, dense(3.3, baseline="inductor")]).time_ms == pytest.approx(3.3, rel=5e-3)


def test_a_dense_row_is_one_only_over_its_own_time() -> None:
    slower, faster = rows([dense(3.4), dense(3.2, baseline="onednn")])
    assert faster.over_best == Estimate(1.0)
    assert slower.over_best is not None and slower.over_best.low is not None
    assert slower.over_best.value == pytest.approx(3.2 / 3.4, rel=1e-2)

"""What is derived from training records: hours at equal epochs, overhead, efficiency of ranks."""

from __future__ import annotations

import pytest
from msgspec import structs

from csbench.core.record import Record
from csbench.core.training import TrainSettings
from csbench.report.provenance import Source
from csbench.report.rows import rows
from csbench.report.table import Table
from csbench.report.tables.scaling import scaling
from csbench.report.trained import Trained, over_nm, trained
from tests.report.made import probe


def derived(*records: Record) -> list[Trained]:
    return trained(rows(records))


def other_epochs(record: Record, epochs: int) -> Record:
    """The same probe with a schedule of another length."""
    asked, report = record.case.training, record.training
    assert isinstance(asked, TrainSettings) and report
    share = epochs / asked.epochs
    case = structs.replace(record.case, training=structs.replace(asked, epochs=epochs))
    shorter = structs.replace(
        report,
        phases=tuple(structs.replace(p, steps=int(p.steps * share)) for p in report.phases),
        events=tuple(structs.replace(e, count=round(e.count * share)) for e in report.events),
    )
    return structs.replace(record, case=case, key=case.key, training=shorter)


def test_time_over_nm_is_at_equal_epochs_and_in_one_setting_alone() -> None:
    nm, cs = probe("nm", "nm:2:4", 100.0), other_epochs(probe("cs", "cs:2", 99.0), 90)
    ranks = probe("cs", "cs:2", 50.0, ranks=2)
    found = derived(nm, cs, ranks)
    ratio = over_nm(found[1], found)
    assert ratio is not None and ratio.value == pytest.approx(0.99, abs=0.001)
    assert ratio.low is not None and ratio.high is not None and ratio.low < 0.99 < ratio.high
    assert over_nm(found[2], found) is None
    nm_itself = over_nm(found[0], found)
    assert nm_itself is not None and nm_itself.value == 1.0


def test_overhead_is_against_the_dense_steps_of_the_same_run() -> None:
    (one,) = derived(probe("cs", "cs:2", 104.0))
    assert one.overhead is not None
    assert one.overhead.value == pytest.approx(0.04, abs=0.002)
    assert one.overhead.low < one.overhead.value < one.overhead.high  # type: ignore[operator]
    assert one.events_ms == pytest.approx(3001 * 4.0 / (120 * 5004), rel=0.01)


def test_a_noisy_probe_shows_hours_and_an_invalid_one_does_not() -> None:
    good = probe("nm", "nm:2:4", 100.0)
    noisy, invalid = (structs.replace(good, status=s) for s in ("noisy", "invalid"))
    assert derived(noisy)[0].hours is not None
    assert derived(invalid)[0].hours is None and derived(invalid)[0].split_ms == {}


def test_efficiency_is_one_ranks_step_over_that_of_many() -> None:
    many = [probe("cs", "cs:2", ms, ranks=n) for n, ms in ((1, 100.0), (2, 104.0), (4, 110.0))]
    (table,) = scaling(rows(many), Source(many))
    assert column(table, "efficiency_percent") == pytest.approx([100, 96.15, 90.91], abs=0.05)
    assert column(table, "images_per_second") == pytest.approx([2560, 4923, 9309], rel=0.002)
    assert column(table, "ddp_percent") == pytest.approx([1.0] * 3, abs=0.1)


def column(table: Table, key: str) -> list[float | None]:
    position = [c.key for c in table.columns].index(key)
    return [row[position].number for row in table.rows]

"""Patterns side by side: who stands for a pattern, what a row says of the rest, what is tied."""

from __future__ import annotations

from csbench.core.record import Record
from csbench.report.document import tables
from csbench.report.rows import rows
from csbench.report.show import whole
from csbench.report.table import Cell, Cells, Table
from csbench.report.tables.comparison import fastest
from tests.report.made import compared_records, record


def table() -> Table:
    (made,) = tables(compared_records(), "comparison")
    return made


def cell(made: Table, line: Cells, key: str) -> Cell:
    return line[[column.key for column in made.columns].index(key)]


def value(made: Table, line: Cells, key: str) -> object:
    return cell(made, line, key).value


def test_rows_are_grouped_by_sparsity_and_dense_networks_come_first() -> None:
    made = table()
    assert [group.title for group in made.groups] == ["dense", "0 %", "50 %", "75 %"]
    dense, _, half, _ = made.groups
    assert [value(made, line, "backend") for line in dense.rows] == [
        "cs-dense",
        "cudnn",
        "inductor",
    ]
    assert [value(made, line, "pattern") for line in half.rows] == ["nm:1:2", "ovw:32", "cs:2"]


def test_a_pattern_is_shown_by_its_fastest_backend_and_the_others_are_named() -> None:
    made = table()
    nm, ovw, cs = made.groups[2].rows
    assert value(made, nm, "backend") == "nm"
    assert cell(made, nm, "backend").note == "also: nm-slow 0.600 ms"
    assert cell(made, cs, "backend").note == "also: masked 1.650 ms"
    assert cell(made, ovw, "time_ms").code == "UNSUPPORTED"


def test_what_multiplied_zeros_never_stands_for_a_pattern_that_ran() -> None:
    slow = record(0.5, 9.0, pattern="cs:2", backend="cs")
    masked = next(r for r in compared_records() if r.case.backend == "masked")
    quick = record(0.5, 0.01, pattern="cs:2", backend="masked", layers=masked.layers)
    assert fastest(rows([slow, quick]))[0][0].case.backend == "cs"
    failed = record(0.5, pattern="cs:2", backend="cs", status="oom", layers=())
    assert fastest(rows([failed, quick]))[0][0].case.backend == "cs"


def test_patterns_that_are_tied_are_both_marked() -> None:
    made = table()
    tied = [cell(made, line, "time_ms").tied for line in made.groups[2].rows]
    assert tied == [True, False, True]


def test_the_best_dense_way_of_both_kinds_is_named_and_what_failed_is_said() -> None:
    made = table()
    line = made.groups[2].rows[2]
    assert value(made, line, "best_dense_same") == "cs fp32 at 0 %"
    assert value(made, line, "best_dense") == "cudnn fp16"
    assert any("fp32 cs at 0 % 0.600 ms" in note for note in made.notes)
    assert any("cs-dense tf32 (wrong: relative error" in note for note in made.notes)


def test_one_pattern_alone_is_no_comparison() -> None:
    alone = [r for r in compared_records() if r.case.pattern.startswith(("cs", "dense"))]
    assert "comparison" not in {made.name for made in tables(alone)}


def test_a_checkpoint_near_a_usual_sparsity_stands_in_its_group() -> None:
    near = [record(0.7498, 1.0), record(0.75, 1.1, pattern="cs:4", backend="cs")]
    (made,) = tables(near, "comparison")
    assert [group.title for group in made.groups] == ["75 %"]


def test_a_record_shown_whole_lists_every_dense_way_and_what_was_left_out() -> None:
    shown = whole(compared_records()[0])
    assert "dense ways   cudnn fp32: median 1.6000 ms" in shown
    assert "cs-dense fp32: median 0.6200 ms" in shown
    assert "left out     cs-dense tf32: wrong: relative error" in shown


def test_a_report_of_all_shows_a_case_in_one_table_only() -> None:
    quick = [record(0.5, 1.0, pattern=name, backend=name[:2]) for name in ("cs:2", "nm:1:2")]
    failed = record(0.5, pattern="nm:1:2", backend="none", status="unsupported", layers=())
    assert [made.name for made in tables([*quick, failed])] == ["comparison"]
    slower = record(0.5, 2.0, pattern="cs:2", backend="csr")
    compared, general = tables([*quick, failed, slower])
    assert [value(compared, line, "backend") for line in compared.rows] == ["nm", "cs"]
    assert [value(general, line, "backend") for line in general.rows] == ["csr"]
    assert any("not repeated here" in note for note in general.notes)
    other = record(0.5, 1.0, pattern="cs:2", backend="cs", batch=8)
    _, general = tables([*quick, other])
    assert [value(general, line, "batch") for line in general.rows] == [8]


def test_the_general_table_by_name_shows_every_case() -> None:
    made = compared_records()
    (general,) = tables(made, "inference")
    assert len(general.rows) == len(made)
    assert not any("not repeated here" in note for note in general.notes)


def test_what_is_slower_than_a_row_of_the_comparison_is_not_marked_as_the_best() -> None:
    quick = [record(0.5, 1.0, pattern=name, backend=name[:2]) for name in ("cs:2", "nm:1:2")]
    slower = [record(0.5, ms, pattern="cs:2", backend=f"b{ms}") for ms in (2.0, 3.0)]
    _, general = tables([*quick, *slower])
    assert not general.has_ties


def test_no_column_says_that_dense_rows_are_one_over_themselves() -> None:
    def shown(records: list[Record]) -> bool:
        (made,) = tables(records, "comparison")
        return next(c.shown for c in made.columns if c.key == "speedup_over_own")

    dense = record(0.0, 1.9, pattern="dense", backend="cudnn")
    sparse = [record(0.5, 1.0, pattern=name, backend=name[:2]) for name in ("cs:2", "nm:1:2")]
    assert not shown([dense, *sparse])
    assert shown([dense, *sparse, record(0.0, 1.2, pattern="cs:1", backend="cs")])


def test_patterns_that_a_group_lacks_are_named() -> None:
    def notes(records: list[Record]) -> list[str]:
        (*_, made) = tables(records, "comparison")
        return [note for note in made.notes if "Not measured" in note]

    half = [record(0.5, pattern=name, backend=name[:2]) for name in ("cs:2", "nm:1:2")]
    block = record(0.75, pattern="block:32x32")
    assert notes(half) == []
    assert notes([*half, block]) == [
        "Not measured, so not compared: block at 50 %; nm at 75 %; cs at 75 %."
    ]
    # What is compared in another precision could have been here.
    other = [record(0.5, pattern=name, backend="b", dtype="fp16") for name in ("ovw:32", "cs:2")]
    assert notes([*half, *other]) == ["Not measured, so not compared: nm at any sparsity."]
    failed = record(0.5, pattern="nm:1:2", backend="b", dtype="fp16", status="oom")
    assert notes([*half, *other, failed]) == []


def test_times_and_speed_ups_are_compared_and_a_baseline_that_differs_is_said() -> None:
    """Rows of other sittings have other baselines: the larger ratio may be the longer time."""
    lines = [
        record(0.5, 1.0, 4.0, pattern="cs:2", backend="cs"),
        record(0.5, 0.9, 3.5, pattern="nm:1:2", backend="nm"),
        record(0.5, 1.1, 3.5, pattern="ovw:32", backend="ovw"),
    ]
    (made,) = tables(lines, "comparison")
    by = {
        key: [value(made, line, "pattern") for line in made.rows if cell(made, line, key).tied]
        for key in ("time_ms", "speedup")
    }
    assert by == {"time_ms": ["nm:1:2"], "speedup": ["cs:2"]}
    assert any("cudnn took 3.5" in note for note in made.notes)

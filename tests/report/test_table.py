"""The table model: decimals, ties, footnotes, panels; and the strings made of them."""

from __future__ import annotations

import pytest

from csbench.report.render.strings import MISSING, PAD, column_texts
from csbench.report.table import Cell, Column, Group, Provenance, Table, mark_ties

WHERE = Provenance("abc", "1", "Test", "", "2026-01-02")


def table(*rows: tuple[Cell, ...], columns: tuple[Column, ...] | None = None) -> Table:
    made = columns or tuple(Column(f"c{i}", (f"C{i}",)) for i in range(len(rows[0])))
    return Table("test", "A test", made, (Group(rows),), WHERE)


def column(*cells: Cell, **how: object) -> list[str]:
    one = Column("c", ("C",), **how)  # type: ignore[arg-type]
    made = table(*((cell,) for cell in cells), columns=(one,))
    return [text.plain for text in column_texts(made, 0)]


@pytest.mark.parametrize(
    ("half_width", "decimals"),
    [(0.5, 1), (1.4, 1), (0.025, 2), (0.013, 3), (0.004, 3), (0.00004, 3), (12.0, 1)],
)
def test_decimals_show_one_or_two_digits_of_the_uncertainty(
    half_width: float, decimals: int
) -> None:
    made = table((Cell(5.0, 5.0 - half_width, 5.0 + half_width),))
    assert made.decimals(0) == decimals


def test_a_ratio_near_one_is_never_rounded_to_it() -> None:
    wide = Cell(0.966, 0.7, 1.3)
    assert column(wide, unit="×") == ["0.97"]
    assert column(wide, unit="ms") == ["1.0"]


def test_an_interval_without_one_gets_a_decimal_more_where_it_would_seem_to_end_there() -> None:
    short = Cell(0.9992, 0.9987, 0.9997)
    assert column(short, unit="×", interval="range") == ["0.9992 [0.9987, 0.9997]"]
    across = Cell(1.0, 0.9987, 1.0003)
    assert column(across, unit="×", interval="range") == ["1.000 [0.999, 1.000]"]
    assert column(short, unit="×", interval="half") == ["0.999 ±0.001"]
    assert column(short, unit="ms") == ["0.999"]


def test_decimals_are_one_number_a_column() -> None:
    words = column(Cell(1.5, 1.496, 1.504), Cell(20.25, 20.0, 20.5), interval="half")
    assert words == [f"{PAD}1.500 ±0.004", "20.250 ±0.250"]


def test_missing_is_never_zero() -> None:
    assert column(Cell(), Cell(float("nan")), Cell(0.0), decimals=1) == [MISSING, MISSING, "0.0"]


def test_a_code_stands_where_there_is_no_number_and_beside_one_it_does_not() -> None:
    assert column(Cell(code="OOM"), Cell(2.0, code="NOISY"), decimals=1) == ["OOM", "2.0"]


def test_an_interval_is_written_with_both_ends_aligned() -> None:
    words = column(Cell(1.5, 1.25, 1.75), Cell(9.0, 8.5, 10.5), interval="range", decimals=2)
    assert words == [f"1.50 [1.25, {PAD}1.75]", "9.00 [8.50, 10.50]"]


def test_half_width_covers_the_wider_side() -> None:
    assert Cell(1.0, 0.9, 1.3).half_width == pytest.approx(0.3)


def test_small_errors_are_written_short() -> None:
    assert column(Cell(2.5e-7), Cell(0.0), decimals=1, form="scientific") == [
        "2.5e-7",
        f"{PAD * 5}0",
    ]


def ties(*cells: Cell, best: str = "high") -> list[bool]:
    return [cell.tied for cell in mark_ties(cells, best)]  # type: ignore[arg-type]


def test_all_entries_that_overlap_the_best_are_tied() -> None:
    cells = (Cell(2.0, 1.9, 2.1), Cell(1.95, 1.85, 2.0), Cell(1.5, 1.4, 1.6))
    assert ties(*cells) == [True, True, False]
    assert ties(*cells, best="low") == [False, False, True]


def test_a_doubtful_entry_is_never_marked_but_can_be_the_best() -> None:
    noisy = Cell(3.0, 2.9, 3.1, code="NOISY")
    assert ties(noisy, Cell(2.0, 1.9, 2.1), Cell(1.0, 0.9, 1.1)) == [False, False, False]
    assert ties(noisy, Cell(2.95, 2.9, 3.0)) == [False, True]


def test_what_was_compared_with_nothing_is_not_marked() -> None:
    assert ties(Cell(2.0, 1.9, 2.1), Cell(), Cell(code="OOM")) == [False, False, False]


def test_equal_notes_share_a_mark_and_marks_follow_the_reading_order() -> None:
    made = table((Cell(1, note="first"), Cell(2, note="second")), (Cell(3, note="first"), Cell(4)))
    assert made.footnotes == ("first", "second")
    assert [text.mark for text in column_texts(made, 0)] == ["a", "a"]


def test_marks_go_on_after_z() -> None:
    made = table(*((Cell(i, note=f"note {i}"),) for i in range(28)))
    assert [made.mark(f"note {i}") for i in (0, 25, 26, 27)] == ["a", "z", "aa", "ab"]


def test_columns_not_shown_leave_no_footnote() -> None:
    hidden = (Column("a", ("A",)), Column("b", ("B",), shown=False))
    assert table((Cell(1), Cell(2, note="hidden")), columns=hidden).footnotes == ()


def test_the_stub_stands_in_every_panel() -> None:
    columns = (
        Column("name", ("Name",), stub=True),
        Column("one", ("One",)),
        Column("two", ("Two",), panel=1),
    )
    assert table((Cell("x"), Cell(1), Cell(2)), columns=columns).panels == [[0, 1], [0, 2]]


def test_a_unit_is_said_once() -> None:
    assert Column("t", ("Time (ms)", "paper"), "ms").titles == ("Time (ms)", "paper")
    assert Column("t", ("Time",), "ms").titles == ("Time (ms)",)


def test_a_short_row_is_refused() -> None:
    with pytest.raises(ValueError, match="a row of 1 cells in 2 columns"):
        table((Cell(1), Cell(2)), (Cell(1),))

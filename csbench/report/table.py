"""The one table model: columns, grouped rows of cells, footnotes, provenance. Knows no format."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

Align = Literal["left", "right"]
Form = Literal["fixed", "scientific"]
# How a 95 % interval is written: not, as `2.21 ±0.02`, or as `1.16 [1.15, 1.18]`.
IntervalStyle = Literal["none", "half", "range"]

CODES = {
    "noisy": "NOISY",
    "invalid": "INVALID",
    "wrong": "WRONG",
    "unsupported": "UNSUPPORTED",
    "oom": "OOM",
    "timeout": "TIMEOUT",
    "error": "ERROR",
}
_MOST_DECIMALS = 3  # of an automatic column: a millisecond to the microsecond


@dataclass(frozen=True)
class Column:
    """One column: its heads from the outermost spanning one down, its unit, how numbers look.

    `key` names it in CSV and JSON, unit included (`time_ms`). `decimals` None chooses from the
    uncertainty of the column's cells, the same for all of them. A column that is not `shown` is
    in CSV and JSON only: the caption or a group's title says it to people. Where a page is too
    narrow for all, columns of one `panel` stand side by side and panels below each other.
    """

    key: str
    heads: tuple[str, ...]
    unit: str = ""
    align: Align = "right"
    decimals: int | None = None
    form: Form = "fixed"
    interval: IntervalStyle = "none"
    stub: bool = False  # names the row: repeated in every panel
    panel: int = 0
    shown: bool = True

    @property
    def titles(self) -> tuple[str, ...]:
        """The heads, with the unit at the lowest one unless a spanning head says it already."""
        unit = f"({self.unit})"
        if not self.unit or any(head.endswith(unit) for head in self.heads):
            return self.heads
        return (*self.heads[:-1], f"{self.heads[-1]} {unit}".lstrip())


@dataclass(frozen=True)
class Cell:
    """A number with its 95 % interval, a text, or a status code; nothing at all is missing.

    A code beside a number says that the number is doubtful (NOISY). `note` becomes a footnote;
    `tied` marks the best, and what cannot be told from it.
    """

    value: float | str | None = None
    low: float | None = None
    high: float | None = None
    code: str | None = None
    note: str | None = None
    tied: bool = False

    @property
    def number(self) -> float | None:
        """The value where it is a finite number."""
        if not isinstance(self.value, (int, float)) or not math.isfinite(self.value):
            return None
        return float(self.value)

    @property
    def half_width(self) -> float | None:
        """Half of the interval, in the value's unit: the wider side, so that ± covers both."""
        if self.number is None or self.low is None or self.high is None:
            return None
        return max(self.number - self.low, self.high - self.number)


MISSING = Cell()
Cells = tuple[Cell, ...]  # one row


@dataclass(frozen=True)
class Group:
    """Rows that belong together, under a title of their own where there is one."""

    rows: tuple[Cells, ...]
    title: str = ""


@dataclass(frozen=True)
class Provenance:
    """Where a table's numbers come from."""

    records_sha256: str
    csbench: str
    device: str
    driver: str
    date: str

    def lines(self) -> list[str]:
        """For people: what ran where and when, then the hash."""
        driver = f"driver {self.driver}" if self.driver else ""
        parts = [f"csbench {self.csbench}", self.device, driver, self.date]
        return ["; ".join(p for p in parts if p), f"records sha256 {self.records_sha256}"]


@dataclass(frozen=True)
class Table:
    """A table ready to be written in any format.

    `name` is the kind (`table11`), `label` is for cross references, `notes` stand below unmarked,
    before the footnotes of the cells.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    groups: tuple[Group, ...]
    provenance: Provenance
    label: str = ""
    notes: tuple[str, ...] = ()
    footnotes: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row of {len(row)} cells in {len(self.columns)} columns")
        # Each text once, in reading order: equal reasons share a mark.
        notes = (row[p].note for panel in self.panels for row in self.rows for p in panel)
        object.__setattr__(self, "footnotes", tuple(dict.fromkeys(note for note in notes if note)))

    @property
    def rows(self) -> list[Cells]:
        return [row for group in self.groups for row in group.rows]

    @property
    def has_ties(self) -> bool:
        return any(cell.tied for row in self.rows for cell in row)

    @property
    def panels(self) -> list[list[int]]:
        """Positions of the shown columns, panel by panel, the stub first in each."""
        shown = [p for p, column in enumerate(self.columns) if column.shown]
        stub = [p for p in shown if self.columns[p].stub]
        rest = [p for p in shown if not self.columns[p].stub]
        numbers = sorted({self.columns[p].panel for p in rest})
        return [stub + [p for p in rest if self.columns[p].panel == n] for n in numbers] or [stub]

    def mark(self, note: str) -> str:
        """The footnote's mark: a, b, ... z, aa, ab, ..."""
        index, letters = self.footnotes.index(note) + 1, ""
        while index:
            index, rest = divmod(index - 1, 26)
            letters = chr(ord("a") + rest) + letters
        return letters

    def decimals(self, position: int) -> int:
        """Decimals of a column: as given, or such that every ± shows one or two digits; of a ratio
        two at least, for 0.966 is not 1.0 however wide another row's interval is. One more where
        an interval without 1 would look as if it ended there."""
        column = self.columns[position]
        if column.decimals is not None:
            return column.decimals
        least = 2 if column.unit == "×" else 1
        widths = [row[position].half_width for row in self.rows]
        needed = [_decimals(width) for width in widths if width]
        enough = min(max([least, *needed]) if needed else 2, _MOST_DECIMALS)
        cells = (row[position] for row in self.rows)
        ends = column.unit == "×" and column.interval == "range"  # which are shown
        return enough + (ends and any(_seems_to_reach_one(cell, enough) for cell in cells))


def _seems_to_reach_one(cell: Cell, decimals: int) -> bool:
    """Whether so few decimals show an end of the interval as 1, which the interval lacks."""
    if cell.low is None or cell.high is None or cell.low <= 1 <= cell.high:
        return False
    return 1 in (round(cell.low, decimals), round(cell.high, decimals))


def _decimals(half_width: float) -> int:
    """Decimals that show one digit of an uncertainty, or two when it begins with a 1."""
    exponent = math.floor(math.log10(half_width))
    return max(0, -exponent + int(half_width < 2 * 10.0**exponent))


def mark_ties(cells: Sequence[Cell], best: Literal["low", "high"]) -> list[Cell]:
    """The cells, with every sound one that is statistically tied with the best marked.

    Tied: its interval overlaps the best one's. A cell with a code is never marked, though it can
    be the best; a lone cell is not marked, for it was compared with nothing.
    """
    sign = 1 if best == "high" else -1
    numbers = [cell for cell in cells if cell.number is not None]
    if len(numbers) < 2:
        return list(cells)
    top = max(numbers, key=lambda cell: sign * (cell.number or 0.0))
    return [
        replace(cell, tied=True)
        if cell.number is not None and not cell.code and _overlap(cell, top)
        else cell
        for cell in cells
    ]


def hide_empty(table: Table) -> Table:
    """The table with no column shown to people that is empty in every row."""
    empty = [all(row[p] == MISSING for row in table.rows) for p in range(len(table.columns))]
    columns = tuple(
        replace(column, shown=column.shown and not nothing)
        for column, nothing in zip(table.columns, empty, strict=True)
    )
    return replace(table, columns=columns)


def _overlap(one: Cell, other: Cell) -> bool:
    def ends(cell: Cell) -> tuple[float, float]:
        value = cell.number or 0.0
        return (value if cell.low is None else cell.low, value if cell.high is None else cell.high)

    (low, high), (other_low, other_high) = ends(one), ends(other)
    return low <= other_high and other_low <= high


def groups_of(rows: Iterable[tuple[str, Cells]]) -> tuple[Group, ...]:
    """Neighbouring rows of one title as one group."""
    found: dict[str, list[Cells]] = {}
    for title, row in rows:
        found.setdefault(title, []).append(row)
    return tuple(Group(tuple(part), title) for title, part in found.items())

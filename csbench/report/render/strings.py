"""Cells as aligned strings: what every format of a table for people starts from."""

from __future__ import annotations

from dataclasses import dataclass

from csbench.report.table import Cell, Column, Table

MISSING = "--"
TIES = "Bold: the best of its group, or statistically tied with it."
# A space as wide as a digit: padding that survives proportional fonts. Formats without one
# (text, Markdown) put a plain space or nothing in its place.
PAD = "\N{FIGURE SPACE}"


@dataclass(frozen=True)
class Text:
    """One cell in words: the value, its interval apart so that it can be set small, its mark."""

    value: str
    interval: str = ""
    mark: str = ""
    bold: bool = False

    @property
    def plain(self) -> str:
        return f"{self.value} {self.interval}" if self.interval else self.value


def column_texts(table: Table, position: int) -> list[Text]:
    """One column of a table; numbers are padded so that their digits stand below each other."""
    column = table.columns[position]
    cells = [row[position] for row in table.rows]
    decimals = table.decimals(position)
    values = _right_aligned(
        [None if c.number is None else _number(c.number, decimals, column.form) for c in cells]
    )
    intervals = _intervals(cells, column, decimals)
    texts = []
    for cell, value, interval in zip(cells, values, intervals, strict=True):
        mark = table.mark(cell.note) if cell.note else ""
        if value is not None:
            texts.append(Text(value, interval, mark, cell.tied))
        else:
            word = cell.value if isinstance(cell.value, str) else None
            texts.append(Text(cell.code or word or MISSING, "", mark, cell.tied))
    return texts


def _intervals(cells: list[Cell], column: Column, decimals: int) -> list[str]:
    def ends(cell: Cell) -> list[float] | None:
        if cell.half_width is None or cell.low is None or cell.high is None:
            return None
        return [cell.half_width] if column.interval == "half" else [cell.low, cell.high]

    if column.interval == "none":
        return ["" for _ in cells]
    pairs = [ends(cell) for cell in cells]
    sides = [
        _right_aligned([None if p is None else _number(p[side], decimals, "fixed") for p in pairs])
        for side in range(1 if column.interval == "half" else 2)
    ]
    pattern = "±{}" if column.interval == "half" else "[{}, {}]"
    return [
        pattern.format(*parts) if parts[0] is not None else "" for parts in zip(*sides, strict=True)
    ]


def _number(value: float, decimals: int, form: str) -> str:
    if form == "fixed":
        return f"{value:.{decimals}f}"
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{decimals}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _right_aligned(words: list[str | None]) -> list[str | None]:
    width = max((len(word) for word in words if word is not None), default=0)
    return [None if word is None else word.rjust(width, PAD) for word in words]


@dataclass(frozen=True)
class Head:
    """A title over `span` neighbouring columns, the first of them at `start`."""

    title: str
    start: int
    span: int


def head_rows(columns: list[Column]) -> list[list[Head]]:
    """The heads of neighbouring columns, outermost row first; the last row has one a column."""
    levels = max(len(column.titles) for column in columns)
    paths = [("",) * (levels - len(c.titles)) + c.titles for c in columns]
    rows = []
    for level in range(levels):
        row: list[Head] = []
        for start, path in enumerate(paths):
            last = row[-1] if row else None
            joins = last and path[level] and path[: level + 1] == paths[last.start][: level + 1]
            if last and joins and level < levels - 1:
                row[-1] = Head(last.title, last.start, last.span + 1)
            else:
                row.append(Head(path[level], start, 1))
        rows.append(row)
    return rows

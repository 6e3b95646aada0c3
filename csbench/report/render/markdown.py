"""GitHub-flavoured Markdown: a pipe table, footnotes and provenance below it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from csbench.report.render.strings import PAD, TIES, Text, column_texts
from csbench.report.table import Column, Table


def markdown(table: Table) -> str:
    """The table in Markdown; spanning heads are stacked in the head cell of each column."""
    below = [f"<sup>{table.mark(note)}</sup> {escape(note)}" for note in table.footnotes]
    if table.has_ties:
        below.append(TIES)
    below += [escape(line) for line in (*table.notes, *table.provenance.lines())]
    panels = ["\n".join(_panel(table, positions)) for positions in table.panels]
    return "\n\n".join([f"**{escape(table.caption)}**", *panels, "<br>\n".join(below)]) + "\n"


def _panel(table: Table, positions: list[int]) -> list[str]:
    columns = [table.columns[p] for p in positions]
    texts = [column_texts(table, p) for p in positions]
    lines = [
        _line(_head(column) for column in columns),
        _line("---" if column.align == "left" else "--:" for column in columns),
    ]
    row = 0
    for group in table.groups:
        if group.title:
            lines.append(_line([f"*{escape(group.title)}*", *[""] * (len(columns) - 1)]))
        for _ in group.rows:
            lines.append(_line(_cell(text[row]) for text in texts))
            row += 1
    return lines


def escape(words: str) -> str:
    """Text that Markdown shows as it is, also in a table cell."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$^&])", r"\\\1", " ".join(words.split()))


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _head(column: Column) -> str:
    return "<br>".join(escape(title) for title in column.titles if title)


def _cell(cell: Text) -> str:
    value = cell.plain.replace(PAD, "")
    # Numbers and intervals hold nothing to escape; square brackets of an interval are no link.
    words = value if cell.interval else escape(value)
    words = f"**{words}**" if cell.bold else words
    return f"{words}<sup>{cell.mark}</sup>" if cell.mark else words

r"""LaTeX: a booktabs float to \input, or a document that compiles by itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from csbench.report.render.strings import MISSING, PAD, TIES, Text, column_texts, head_rows
from csbench.report.render.templates import template
from csbench.report.table import Column, Table

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "`": r"\textasciigrave{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "×": r"$\times$",
    "±": r"$\pm$",
    "µ": r"$\mu$",
    # After the \\ that ends a row, either would be read as its argument.
    "[": "{[}",
    "*": "{*}",
    PAD: r"\phantom{0}",
    **{character: f"\\{character}" for character in "%_&#${}"},
}


# Lines of a table that a page of LaTeX's article has room for; what a caption takes of them; and a
# note's line, which is smaller.
PAGE, CAPTION, NOTE, NOTE_CHARACTERS = 61, 4, 0.85, 95
LEAST = 10


def latex(table: Table) -> str:
    r"""The table as a float, or as several where it is long; the document needs booktabs and
    graphicx."""
    parts = _parts(table)
    texts = {p: column_texts(table, p) for panel in table.panels for p in panel}
    return "\n".join(_float(table, texts, parts, number) for number in range(len(parts)))


@dataclass(frozen=True)
class _Rows:
    """Rows `first` to before `end` of a table, which belong together under a title."""

    title: str
    first: int
    end: int


@dataclass(frozen=True)
class _Panel:
    alignment: str
    heads: list[str]
    body: list[str]


def _parts(table: Table) -> list[list[_Rows]]:
    """The groups of each float: whole where they fit into one, else cut."""
    room = _room(table)
    parts: list[list[_Rows]] = [[]]
    lines = row = 0
    for group in table.groups:
        for first in range(0, len(group.rows), room - 1):
            end = row + len(group.rows[first : first + room - 1])
            size = end - row + bool(group.title)
            if lines + size > room and parts[-1]:
                parts.append([])
                lines = 0
            parts[-1].append(_Rows(group.title, row, end))
            lines, row = lines + size, end
    return parts


def _room(table: Table) -> int:
    """Lines of a panel that leave room on a page for the other panels, heads and notes."""
    notes = sum(-(-len(note) // NOTE_CHARACTERS) for note in (*table.footnotes, *table.notes))
    heads = 1 + max(len(column.titles) for column in table.columns)
    return max(LEAST, int((PAGE - CAPTION - NOTE * notes) / len(table.panels)) - heads)


def _float(
    table: Table, texts: dict[int, list[Text]], parts: list[list[_Rows]], number: int
) -> str:
    part, last = parts[number], number == len(parts) - 1
    numbers = [row for rows in part for row in range(rows.first, rows.end)]
    cells = [column[row] for column in texts.values() for row in numbers]
    marks = {cell.mark for cell in cells}
    notes = [
        rf"\textsuperscript{{{mark}}} {escape(note)}"
        for mark, note in ((table.mark(n), n) for n in table.footnotes)
        if mark in marks
    ]
    notes += [TIES] * any(cell.bold for cell in cells)
    return template("table.tex.j2").render(
        provenance=[" ".join(line.split()) for line in table.provenance.lines()],
        caption=escape(table.caption) + f" ({number + 1} of {len(parts)})" * (len(parts) > 1),
        label=f"tab:{table.label or table.name}" + f"-part{number + 1}" * (number > 0),
        panels=[_panel(table, texts, positions, part) for positions in table.panels],
        notes=notes + [escape(note) for note in table.notes if last],
    )


def _panel(
    table: Table, texts: dict[int, list[Text]], positions: list[int], part: list[_Rows]
) -> _Panel:
    columns = [table.columns[p] for p in positions]
    return _Panel(
        "".join(column.align[0] for column in columns),
        _heads(columns),
        _body(part, [texts[p] for p in positions]),
    )


def document(tables: Sequence[Table]) -> str:
    """A whole document of the tables, to compile as it stands."""
    return template("document.tex.j2").render(tables="\n".join(latex(t) for t in tables))


def escape(words: str) -> str:
    """Text that LaTeX sets as it is; a character that its Latin fonts lack becomes `?`."""
    characters = re.sub(r"[\x00-\x20]+", " ", words)
    escaped = "".join(
        _ESCAPES.get(c, c if "\x20" <= c < "\x7f" or "\xa0" <= c <= "\xff" else "?")
        for c in characters
    )
    return escaped.replace("--", "-{}-").replace("--", "-{}-")


def _heads(columns: list[Column]) -> list[str]:
    rows = head_rows(columns)
    lines = []
    for row in rows:
        cells, rules = [], []
        for head in row:
            title = escape(head.title)
            if head.span > 1:
                cells.append(rf"\multicolumn{{{head.span}}}{{c}}{{{title}}}")
                first = head.start + 1
                rules.append(rf"\cmidrule(lr){{{first}-{first + head.span - 1}}}")
            else:
                cells.append(title)
        lines.append(" & ".join(cells) + r" \\")
        if rules:
            lines.append(" ".join(rules))
    return lines


def _body(part: list[_Rows], columns: list[list[Text]]) -> list[str]:
    lines: list[str] = []
    for rows in part:
        if lines:
            lines.append(r"\midrule")
        if rows.title:
            title = escape(rows.title)
            lines.append(rf"\multicolumn{{{len(columns)}}}{{l}}{{\emph{{{title}}}}} \\")
        for row in range(rows.first, rows.end):
            lines.append(" & ".join(_cell(column[row]) for column in columns) + r" \\")
    return lines


def _cell(cell: Text) -> str:
    words = MISSING if cell.value == MISSING else escape(cell.value)
    if cell.bold:
        words = rf"\textbf{{{words}}}"
    if cell.interval:
        words += rf" {{\scriptsize {escape(cell.interval)}}}"
    # The mark takes no width, so that digits stay below each other.
    return words + (rf"\rlap{{\textsuperscript{{{cell.mark}}}}}" if cell.mark else "")

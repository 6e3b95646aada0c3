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


def latex(table: Table) -> str:
    r"""The table as a float; the document needs booktabs and graphicx."""
    notes = [rf"\textsuperscript{{{table.mark(n)}}} {escape(n)}" for n in table.footnotes]
    return template("table.tex.j2").render(
        provenance=[" ".join(line.split()) for line in table.provenance.lines()],
        caption=escape(table.caption),
        label=f"tab:{table.label or table.name}",
        panels=[_panel(table, positions) for positions in table.panels],
        notes=notes + [TIES] * table.has_ties + [escape(note) for note in table.notes],
    )


@dataclass(frozen=True)
class _Panel:
    alignment: str
    heads: list[str]
    body: list[str]


def _panel(table: Table, positions: list[int]) -> _Panel:
    columns = [table.columns[p] for p in positions]
    return _Panel(
        "".join(column.align[0] for column in columns),
        _heads(columns),
        _body(table, [column_texts(table, p) for p in positions]),
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


def _body(table: Table, columns: list[list[Text]]) -> list[str]:
    lines: list[str] = []
    row = 0
    for group in table.groups:
        if row:
            lines.append(r"\midrule")
        if group.title:
            title = escape(group.title)
            lines.append(rf"\multicolumn{{{len(columns)}}}{{l}}{{\emph{{{title}}}}} \\")
        for _ in group.rows:
            lines.append(" & ".join(_cell(column[row]) for column in columns) + r" \\")
            row += 1
    return lines


def _cell(cell: Text) -> str:
    words = MISSING if cell.value == MISSING else escape(cell.value)
    if cell.bold:
        words = rf"\textbf{{{words}}}"
    if cell.interval:
        words += rf" {{\scriptsize {escape(cell.interval)}}}"
    # The mark takes no width, so that digits stay below each other.
    return words + (rf"\rlap{{\textsuperscript{{{cell.mark}}}}}" if cell.mark else "")

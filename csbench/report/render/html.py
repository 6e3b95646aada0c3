"""HTML: one document that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from csbench.report.render.strings import TIES, Head, Text, column_texts, head_rows
from csbench.report.render.templates import template
from csbench.report.table import Table


@dataclass(frozen=True)
class _Group:
    title: str
    rows: list[list[Text]]


@dataclass(frozen=True)
class _Panel:
    heads: list[list[Head]]
    left: frozenset[int]  # positions of the left-aligned columns
    width: int
    groups: list[_Group]


def html(tables: Sequence[Table]) -> str:
    """All tables in one page."""
    return template("document.html.j2").render(tables=[_view(table) for table in tables])


def _view(table: Table) -> dict[str, Any]:
    return {
        "label": table.label or table.name,
        "caption": table.caption,
        "panels": [_panel(table, positions) for positions in table.panels],
        "footnotes": [(table.mark(note), note) for note in table.footnotes],
        "notes": [TIES] * table.has_ties + [*table.notes, *table.provenance.lines()],
    }


def _panel(table: Table, positions: list[int]) -> _Panel:
    columns = [table.columns[p] for p in positions]
    rows = iter(zip(*(column_texts(table, p) for p in positions), strict=True))
    return _Panel(
        heads=head_rows(columns),
        left=frozenset(i for i, column in enumerate(columns) if column.align == "left"),
        width=len(columns),
        groups=[_Group(g.title, [list(next(rows)) for _ in g.rows]) for g in table.groups],
    )

"""CSV and JSON for programs: full precision, every column, units in the names."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from csbench.report.table import Cell, Column, Table


def as_csv(tables: Sequence[Table]) -> str:
    """One header over all rows; what a kind of table does not have stays empty.

    An interval takes the columns NAME_low and NAME_high, a status code NAME_code.
    """
    rows = [
        {"table": table.name, **_flat(table, row), **asdict(table.provenance)}
        for table in tables
        for row in table.rows
    ]
    names = list(dict.fromkeys(name for row in rows for name in row))
    # Where a number came from stands last, whichever table comes first.
    ends = list(asdict(tables[0].provenance)) if tables else []
    out = io.StringIO()
    writer = csv.DictWriter(
        out, [n for n in names if n not in ends] + ends, restval="", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def as_json(tables: Sequence[Table]) -> str:
    """The tables with captions, columns, rows, notes and provenance."""
    return json.dumps({"tables": [_object(table) for table in tables]}, indent=1) + "\n"


def _flat(table: Table, row: tuple[Cell, ...]) -> dict[str, Any]:
    return dict(
        item
        for cell, column in zip(row, table.columns, strict=True)
        for item in _fields(cell, column)
    )


def _fields(cell: Cell, column: Column) -> Iterator[tuple[str, Any]]:
    yield column.key, _value(cell)
    if column.interval != "none":
        yield f"{column.key}_low", cell.low if cell.number is not None else None
        yield f"{column.key}_high", cell.high if cell.number is not None else None
        yield f"{column.key}_code", cell.code


def _value(cell: Cell) -> float | str | None:
    return cell.value if isinstance(cell.value, str) else cell.number


def _object(table: Table) -> dict[str, Any]:
    return {
        "table": table.name,
        "label": table.label or table.name,
        "caption": table.caption,
        "columns": [
            {"key": c.key, "title": ", ".join(t for t in c.titles if t), "unit": c.unit}
            for c in table.columns
        ],
        "groups": [
            {
                "title": group.title,
                "rows": [
                    {
                        column.key: _entry(cell)
                        for cell, column in zip(row, table.columns, strict=True)
                    }
                    for row in group.rows
                ],
            }
            for group in table.groups
        ],
        "notes": list(table.notes),
        "provenance": asdict(table.provenance),
    }


def _entry(cell: Cell) -> Any:
    """The bare value where there is nothing to add to it, else an object."""
    extra = {
        "low": cell.low,
        "high": cell.high,
        "code": cell.code,
        "note": cell.note,
        "tied": cell.tied or None,
    }
    said = {name: given for name, given in extra.items() if given is not None}
    return {"value": _value(cell), **said} if said else _value(cell)

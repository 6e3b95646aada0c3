"""Published training hours, with the measured time of a step beside them."""

from __future__ import annotations

from collections.abc import Sequence

from csbench.report.paper import compare, published
from csbench.report.provenance import Source
from csbench.report.rows import Row
from csbench.report.table import MISSING, Cell, Cells, Column, Group, Table
from csbench.report.tables.cells import INTERVALS, time_cell

NAME = "training-hours"


def training_hours(rows: Sequence[Row], source: Source) -> list[Table]:
    """One table: schemes that the source gives hours for, and those with train-step records."""
    paper = published("training_hours")
    hours: dict[str, float] = paper["hours"]
    steps = [row for row in rows if row.case.task == "train-step"]
    lines = [_cells(row.pattern, hours, row) for row in steps]
    lines += [_cells(n, hours, None) for n in hours if n not in {r.pattern for r in steps}]
    notes = [f"The source claims: {paper['claim']}.", "Ratio is to the hours of N:M."]
    for row in steps[:1]:
        case = row.case
        ours = {"GPU": row.device, "model": case.model, "batch": str(case.batch),
                "dtype": case.dtype}  # fmt: skip
        notes += [INTERVALS, str(compare(paper["setting"], ours))]
    return [
        Table(
            name=NAME,
            caption=f"{paper['title']}: published ({paper['source']}) beside measured.",
            columns=_COLUMNS,
            groups=(Group(tuple(lines)),),
            provenance=source.of(steps),
            notes=tuple(notes),
        )
    ]


_COLUMNS = (
    Column("scheme", ("Scheme",), align="left", stub=True),
    Column("model", ("Model",), align="left"),
    Column("device", ("Device",), align="left"),
    Column("batch", ("Batch",), decimals=0),
    Column("dtype", ("Precision",), align="left"),
    Column("step_ms", ("Step (ms)", "measured"), "ms", interval="half"),
    Column("hours_published", ("Time (h)", "published"), "h", decimals=2),
    Column("ratio_published", ("Ratio to N:M", "published"), decimals=3),
)


def _cells(scheme: str, hours: dict[str, float], row: Row | None) -> Cells:
    theirs = Cell(hours.get(scheme))
    ratio = Cell(hours[scheme] / hours["nm"]) if scheme in hours else MISSING
    if row is None:
        return (Cell(scheme), MISSING, MISSING, MISSING, MISSING, MISSING, theirs, ratio)
    case = row.case
    return (
        Cell(scheme),
        Cell(case.model),
        Cell(row.device),
        Cell(case.batch),
        Cell(case.dtype),
        time_cell(row),
        theirs,
        ratio,
    )

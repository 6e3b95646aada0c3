"""Table 11 of Zhao et al., TMLR 2023, in its layout: published beside measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby, zip_longest
from typing import Any

from csbench.core.pattern import parse
from csbench.report.paper import compare, published
from csbench.report.provenance import Source
from csbench.report.rows import Row
from csbench.report.table import MISSING, Cell, Cells, Column, Group, Table, mark_ties
from csbench.report.tables.cells import (
    conditions,
    error_cell,
    share_cell,
    sparsity_cells,
    speedup_cell,
    time_cell,
)
from csbench.report.tables.speedups import dense_notes

NAME = "table11"
# The source's two versions, in its order: the backend, and the head over its columns.
_VERSIONS = {
    "block-cutlass": "CUTLASS-based version",
    "block-original": "Original version",
}

_NEAR = 0.5  # percentage points


def table11(rows: Sequence[Row], source: Source) -> list[Table]:
    """One table for each device, batch, precision and block shape that has ResNet50 records."""
    return [_table(part, source) for part in _parts(rows)]


def anchored(rows: Sequence[Row]) -> list[Row]:
    """Rows of the tables that have a row at 0 %: without one, no speed-up stands beside those
    published."""
    return [row for part in _parts(rows) if any(r.over_own for r in part) for row in part]


def _parts(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of each table."""
    paper = published(NAME)
    own = [
        row
        for row in rows
        if row.case.task == "infer"
        and row.case.model == paper["model"]
        and row.pattern == paper["pattern"]
        and row.case.backend in _VERSIONS
    ]
    return [list(part) for _, part in groupby(sorted(own, key=_table_key), _table_key)]


def _table_key(row: Row) -> tuple[str, int, str, str, str]:
    case = row.case
    return (row.device, case.batch, case.dtype, _block(row), case.baseline)


def _block(row: Row) -> str:
    rows, columns = parse(row.case.pattern).parameters or (32, 32)
    return f"{rows}x{columns}"


def _table(rows: list[Row], source: Source) -> Table:
    paper, case = published(NAME), rows[0].case
    kind = "GPU" if case.device.startswith("cuda") else "CPU"
    setting = {
        "device": kind,
        "GPU": rows[0].device if kind == "GPU" else "",
        "batch": str(case.batch),
        "dtype": case.dtype,
        "block shape": _block(rows[0]),
    }
    absent = [name for name in _VERSIONS if name not in {row.case.backend for row in rows}]
    return Table(
        name=NAME,
        caption=f"Block-sparse {case.model} ({_block(rows[0])} blocks, batch {case.batch}, "
        f"{case.dtype}) on {rows[0].device}: published ({paper['source']}) beside measured.",
        columns=_columns(case.baseline),
        groups=(Group(tuple(_lines(paper, rows))),),
        provenance=source.of(rows),
        notes=(
            f"Speedup is against {paper['speedup_against']}, as the source defines it; speed-up "
            f"over {case.baseline} against that dense backend in the same run and precision.",
            *conditions(rows),
            "Error is relative, against a float64 reference.",
            *dense_notes(rows),
            str(compare(paper["setting"], setting)),
            *(f"{name}: no record of it on this device." for name in absent),
        ),
    )


def _columns(baseline: str) -> tuple[Column, ...]:
    sparsity = (
        Column("sparsity_layers_percent", ("Sparsity (%)", "layers"), "%", decimals=2, stub=True),
        Column("sparsity_model_percent", ("Sparsity (%)", "model"), "%", decimals=2, stub=True),
    )
    return sparsity + tuple(
        column for name, head in _VERSIONS.items() for column in _version(name, head, baseline)
    )


def _version(backend: str, head: str, baseline: str) -> tuple[Column, ...]:
    key = backend.replace("-", "_")
    time, speedup = (head, "Time (ms)"), (head, "Speedup (×)")
    return (
        Column(f"{key}_published_ms", (*time, "paper"), "ms", decimals=2),
        Column(f"{key}_ms", (*time, "measured"), "ms", interval="half"),
        Column(f"{key}_published_speedup", (*speedup, "paper"), "×", decimals=2),
        Column(f"{key}_speedup_over_own", (*speedup, "measured"), "×", interval="range"),
        Column(f"{key}_speedup", (head, f"over {baseline}"), "×", interval="range", panel=1),
        Column(f"{key}_error", (head, "Error"), decimals=1, form="scientific", panel=1),
        Column(f"{key}_sparse_layers", (head, "Sparse layers"), panel=1),
    )


def _lines(paper: dict[str, Any], rows: list[Row]) -> list[Cells]:
    theirs = {line["sparsity_percent"]: line for line in paper["rows"]}
    ours: dict[tuple[float, str], list[Row]] = {}
    for row in rows:
        ours.setdefault((_beside(row, theirs), row.case.backend), []).append(row)
    lines = []
    for sparsity in sorted({*theirs, *(key[0] for key in ours)}):
        # Several checkpoints of one sparsity take a line each.
        found = zip_longest(*(ours.get((sparsity, name), []) for name in _VERSIONS))
        for measured in list(found) or [(None,) * len(_VERSIONS)]:
            lines.append(_line(sparsity, theirs.get(sparsity, {}), measured))
    return lines


def _line(sparsity: float, printed: dict[str, Any], measured: Sequence[Row | None]) -> Cells:
    times = mark_ties([MISSING if row is None else time_cell(row) for row in measured], "low")
    said = [row for row in measured if row is not None and row.record.sparsity is not None]
    line = [*sparsity_cells(said[0])] if said else [Cell(sparsity), MISSING]
    for name, row, time in zip(_VERSIONS, measured, times, strict=True):
        line += _cells(printed.get(name, {}), row, time)
    return tuple(line)


def _beside(row: Row, published: Iterable[float]) -> float:
    """The published sparsity in % that a row stands beside; its own where none is near.

    A checkpoint of whole blocks seldom has exactly 75 %.
    """
    own = 100 * row.case.sparsity
    nearest = min(published, key=lambda sparsity: abs(sparsity - own))
    return nearest if abs(nearest - own) <= _NEAR else own


def _cells(printed: dict[str, float], row: Row | None, time: Cell) -> list[Cell]:
    theirs, speedup = Cell(printed.get("time_ms")), Cell(printed.get("speedup"))
    if row is None:
        return [theirs, time, speedup, *[MISSING] * 4]
    own, over = speedup_cell(row, row.over_own), speedup_cell(row, row.speedup)
    return [theirs, time, speedup, own, over, error_cell(row), share_cell(row)]

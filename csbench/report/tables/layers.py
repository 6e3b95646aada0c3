"""Single layers: time and speed-up of each distinct convolution, and what ran there."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from csbench.core.record import LayerReport
from csbench.report.provenance import Source
from csbench.report.rows import Row
from csbench.report.table import MISSING, Cell, Cells, Column, Table, groups_of, hide_empty
from csbench.report.tables.cells import (
    baseline_cell,
    conditions,
    error_cell,
    percent,
    shape,
    speedup_cell,
    time_cell,
)

NAME = "layers"
_MICROSECONDS = 1000.0


def layers(rows: Sequence[Row], source: Source) -> list[Table]:
    """One table for each model, device, baseline, batch and precision that has layer records."""
    own = [row for row in rows if row.case.task == "layer"]
    return [
        _table(list(part), source) for _, part in groupby(sorted(own, key=_table_key), _table_key)
    ]


def _table_key(row: Row) -> tuple[object, ...]:
    case = row.case
    return (case.model, case.input, row.device, case.baseline, case.batch, case.dtype)


def _table(rows: list[Row], source: Source) -> Table:
    case = rows[0].case
    # Layers keep the network's order within a group, for the sort is stable.
    ordered = sorted(rows, key=lambda row: (row.case.sparsity, row.case.pattern, row.case.backend))
    table = Table(
        name=NAME,
        caption=f"Layers of {case.model}, input {shape(case.input)}, batch {case.batch}, "
        f"{case.dtype}, on {rows[0].device}; the baseline is {case.baseline} in the same run.",
        columns=_columns(case.baseline),
        groups=groups_of((_title(row), _cells(row)) for row in ordered),
        provenance=source.of(rows),
        notes=conditions(rows),
    )
    return hide_empty(table)


def _title(row: Row) -> str:
    return f"{row.case.backend}, {row.case.pattern}, {percent(row.case.sparsity)}"


def _columns(baseline: str) -> tuple[Column, ...]:
    return (
        Column("layer", ("Layer",), align="left", stub=True),
        Column("sparsity_percent", ("Sparsity",), "%", decimals=2, shown=False),
        Column("backend", ("Backend",), align="left", shown=False),
        Column("pattern", ("Pattern",), align="left", shown=False),
        Column("ran", ("Ran",), align="left"),
        Column("algorithm", ("Algorithm",), align="left"),
        Column("gflop", ("Work", "(GFLOP)"), "GFLOP", decimals=3),
        Column("weights_kib", ("Weights", "(KiB)"), "KiB", decimals=1),
        Column("relative_error", ("Error",), decimals=1, form="scientific"),
        Column("floor_us", ("Limit", "floor (µs)"), "µs", decimals=2),
        Column("limit_percent", ("Limit", "reached (%)"), "%", decimals=1),
        Column("baseline_us", ("Time (µs)", baseline), "µs", decimals=1),
        Column("time_us", ("Time (µs)", "median"), "µs", interval="half"),
        Column("speedup", ("Speed-up (×)", f"over {baseline}"), "×", interval="range"),
    )


def _cells(row: Row) -> Cells:
    case = row.case
    found = next((entry for entry in row.record.layers if entry.name == case.layer), None)
    return (
        Cell(case.layer),
        Cell(100 * case.sparsity),
        Cell(case.backend),
        Cell(case.pattern),
        Cell(found.ran, note=_note(found)) if found else MISSING,
        Cell(found.algorithm) if found else MISSING,
        Cell(found.flops / 1e9) if found and found.flops else MISSING,
        Cell(found.bytes / 1024) if found and found.bytes else MISSING,
        error_cell(row),
        *_limit(row, found),
        baseline_cell(row, _MICROSECONDS),
        time_cell(row, _MICROSECONDS),
        speedup_cell(row, row.speedup),
    )


def _note(layer: LayerReport) -> str | None:
    """Why a layer ran dense, and what its time includes."""
    return "; ".join(filter(None, (layer.reason, layer.note))) or None


def _limit(row: Row, layer: LayerReport | None) -> tuple[Cell, Cell]:
    """The least time that the device's ceilings allow, in us, and how much of it was reached."""
    floor = layer.floor_ms if layer else None
    if not floor:
        return MISSING, MISSING
    reached = MISSING if row.time_ms is None else Cell(100 * floor / row.time_ms.value)
    return Cell(_MICROSECONDS * floor), reached

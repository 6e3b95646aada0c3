"""The general table of inference: a row a case, a table a model and device."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from csbench.report.provenance import Source
from csbench.report.rows import Row
from csbench.report.table import Cell, Cells, Column, Table, groups_of, hide_empty, mark_ties
from csbench.report.tables.cells import (
    baseline_cell,
    checkpoint_cell,
    error_cell,
    intervals,
    pattern_cell,
    percent,
    shape,
    share_cell,
    sparsity_cells,
    speedup_cell,
    time_cell,
    weights_cell,
)
from csbench.report.tables.speedups import dense_notes, speedup_cells, speedup_columns

NAME = "inference"


def inference(rows: Sequence[Row], source: Source) -> list[Table]:
    """One table for each model, input, device and baseline that has inference records."""
    own = [row for row in rows if row.case.task == "infer"]
    tables = []
    for key, part in groupby(sorted(own, key=_table_key), _table_key):
        tables.append(_table(key, list(part), source))
    return tables


def _table_key(row: Row) -> tuple[str, str, str, str]:
    case = row.case
    return (case.model, shape(case.input), row.device, case.baseline)


def _table(key: tuple[str, str, str, str], rows: list[Row], source: Source) -> Table:
    model, size, device, baseline = key
    many = len({row.pattern for row in rows} - {"dense"}) > 1

    def title_of(row: Row) -> str:
        case = row.case
        words = f"batch {case.batch}, {case.dtype}"
        return f"{words}, {percent(case.sparsity)}" if many else words

    lines: list[tuple[str, Cells]] = []
    for group, part in groupby(sorted(rows, key=_row_key), title_of):
        # Patterns compete within their group; one pattern's backends at each sparsity.
        for _, rivals in groupby(part, lambda row: None if many else row.case.sparsity):
            lines += [(group, line) for line in _compared(list(rivals))]
    titles = {title for title, _ in lines}
    # A lone group needs no line of its own: the caption says it.
    only = f", {titles.pop()}" if len(titles) == 1 else ""
    checkpoints = any(row.case.checkpoint.path for row in rows)
    table = Table(
        name=NAME,
        caption=f"Inference of {model}, input {size}{only}, on {device}; "
        f"the baseline is {baseline} in the same run and precision.",
        columns=columns(baseline, checkpoints),
        groups=groups_of(("" if only else title, cells) for title, cells in lines),
        provenance=source.of(rows),
        notes=(*intervals(rows), *dense_notes(rows)),
    )
    return hide_empty(table)


def _row_key(row: Row) -> tuple[object, ...]:
    case = row.case
    return (case.batch, case.dtype, case.sparsity, case.pattern, case.backend)


def columns(baseline: str, checkpoints: bool) -> tuple[Column, ...]:
    """The columns of a row of inference; what the caption or a group's title says is hidden."""
    return (
        Column("model", ("Model",), align="left", shown=False),
        Column("device", ("Device",), align="left", shown=False),
        Column("batch", ("Batch",), shown=False, decimals=0),
        Column("dtype", ("Precision",), align="left", shown=False),
        Column("sparsity_layers_percent", ("Sparsity (%)", "layers"), "%", decimals=2, stub=True),
        Column("sparsity_model_percent", ("Sparsity (%)", "model"), "%", decimals=2, stub=True),
        Column("pattern", ("Pattern",), align="left", stub=True),
        Column("backend", ("Backend",), align="left", stub=True),
        Column("checkpoint", ("Checkpoint",), align="left", shown=checkpoints),
        Column("sparse_layers", ("Sparse", "layers")),
        Column("weights_mib", ("Weights", "(MiB)"), "MiB", decimals=2),
        Column("relative_error", ("Error",), decimals=1, form="scientific"),
        Column("baseline", ("Baseline",), align="left", shown=False),
        Column("baseline_ms", ("Time (ms)", baseline), "ms", decimals=2, shown=False),
        Column("time_ms", ("Time (ms)", "median"), "ms", interval="half"),
        *speedup_columns(baseline),
    )


def _compared(rivals: list[Row]) -> list[Cells]:
    """A line a row, with the best speed-up over the baseline marked, and what is tied with it."""
    best = mark_ties([speedup_cell(row, row.speedup) for row in rivals], "high")
    return [cells(row, cell) for row, cell in zip(rivals, best, strict=True)]


def cells(row: Row, speedup: Cell, beside: str | None = None) -> Cells:
    """A line of the table; `beside` is a note on the backend."""
    case = row.case
    return (
        Cell(case.model),
        Cell(row.device),
        Cell(case.batch),
        Cell(case.dtype),
        *sparsity_cells(row),
        pattern_cell(row),
        Cell(case.backend, note=beside),
        checkpoint_cell(row),
        share_cell(row),
        weights_cell(row),
        error_cell(row),
        Cell(case.baseline),
        baseline_cell(row),
        time_cell(row),
        *speedup_cells(row, speedup),
    )

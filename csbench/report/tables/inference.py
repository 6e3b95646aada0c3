"""The general table of inference: a row a case, a table a model and device."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import groupby

from csbench.report.provenance import Source
from csbench.report.rows import Row
from csbench.report.table import (
    MISSING,
    Cell,
    Cells,
    Column,
    Table,
    groups_of,
    hide_empty,
    mark_ties,
)
from csbench.report.tables.cells import (
    ENERGY,
    baseline_cell,
    checkpoint_cell,
    conditions,
    energy_cells,
    error_cell,
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
_ELSEWHERE = "What stands in a comparison is not repeated here; it counts where the best is marked."


def inference(
    rows: Sequence[Row], source: Source, told: Collection[str] = frozenset()
) -> list[Table]:
    """One table for each model, input, device and baseline that has inference records.

    Rows with a key in `told` are compared like the others, but stand in another table.
    """
    own = [row for row in rows if row.case.task == "infer"]
    parts = (list(part) for _, part in groupby(sorted(own, key=_table_key), _table_key))
    return [
        _table(part, source, told)
        for part in parts
        if any(row.record.key not in told for row in part)
    ]


def _table_key(row: Row) -> tuple[str, str, str, str]:
    case = row.case
    return (case.model, shape(case.input), row.device, case.baseline)


def _table(everything: list[Row], source: Source, told: Collection[str]) -> Table:
    rows = [row for row in everything if row.record.key not in told]
    model, size, device, baseline = _table_key(rows[0])
    many = len({row.pattern for row in rows} - {"dense"}) > 1

    def title_of(row: Row) -> str:
        case = row.case
        words = f"batch {case.batch}, {case.dtype}"
        return f"{words}, {percent(case.sparsity)}" if many else words

    lines = [
        (title_of(row), cells(row, *best))
        for row, best in _in_order(everything)
        if row.record.key not in told
    ]
    titles = {title for title, _ in lines}
    # A lone group needs no line of its own: the caption says it.
    only = f", {titles.pop()}" if len(titles) == 1 else ""
    table = Table(
        name=NAME,
        caption=f"Inference of {model}, input {size}{only}, on {device}; "
        f"the baseline is {baseline} in the same run and precision.",
        columns=columns(baseline, rows),
        groups=groups_of(("" if only else title, line) for title, line in lines),
        provenance=source.of(rows),
        notes=(
            *([_ELSEWHERE] if len(rows) < len(everything) else []),
            *notes(rows),
        ),
    )
    return hide_empty(table)


def _in_order(rows: Sequence[Row]) -> list[tuple[Row, tuple[Cell, Cell]]]:
    """In the table's order, each row with its time and speed-up, marked among those that share its
    setting and sparsity."""
    found: list[tuple[Row, tuple[Cell, Cell]]] = []
    for _, part in groupby(sorted(rows, key=_row_key), lambda row: _row_key(row)[:3]):
        rivals = list(part)
        found += zip(rivals, marked(rivals), strict=True)
    return found


def marked(rows: Sequence[Row]) -> list[tuple[Cell, Cell]]:
    """Times and speed-ups of rows that share a setting; of each the best is marked, and what is
    tied with it.

    Rows of several sittings differ in their baselines. Where the machine was slower, the speed-up
    is right; where the baseline had a bad day, the time is.
    """
    times = mark_ties([time_cell(row) for row in rows], "low")
    speedups = mark_ties([speedup_cell(row, row.speedup) for row in rows], "high")
    return list(zip(times, speedups, strict=True))


def _row_key(row: Row) -> tuple[object, ...]:
    case = row.case
    return (case.batch, case.dtype, case.sparsity, case.pattern, case.backend)


def columns(baseline: str, rows: Sequence[Row]) -> tuple[Column, ...]:
    """The columns of rows of inference; what the caption or a group's title says is hidden, and
    what has nothing to say of these rows."""
    checkpoints = any(row.case.checkpoint.path for row in rows)
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
        Column(
            "energy_mj_per_image",
            ("Energy", "(mJ/image)"),
            "mJ/image",
            decimals=1,
            shown=shows_energy(rows),
        ),
        Column(
            "baseline_energy_mj_per_image",
            ("Energy", baseline),
            "mJ/image",
            decimals=1,
            shown=False,
        ),
        *speedup_columns(baseline, rows),
    )


def shows_energy(rows: Iterable[Row]) -> bool:
    """Whether every row with a time has its energy too: a column with gaps compares nothing."""
    timed = [row for row in rows if row.time_ms is not None]
    return bool(timed) and all(energy_cells(row)[0] != MISSING for row in timed)


def notes(rows: Sequence[Row]) -> tuple[str, ...]:
    """What is said below rows of inference: how times, energy and dense ways were measured."""
    energy = [ENERGY] if shows_energy(rows) else []
    return (*conditions(rows), *energy, *dense_notes(rows))


def cells(row: Row, time: Cell, speedup: Cell, beside: str | None = None) -> Cells:
    """A line of the table; time and speed-up may be marked, `beside` is a note on the backend."""
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
        time,
        *energy_cells(row),
        *speedup_cells(row, speedup),
    )

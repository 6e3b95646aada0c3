"""Columns of speed-ups: over the baseline, over own 0 %, over the best dense way."""

from __future__ import annotations

from collections.abc import Sequence

from csbench.report.rows import Row
from csbench.report.table import Cell, Cells, Column
from csbench.report.tables.cells import speedup_cell, unique

_HEAD = "Speed-up (×)"


def speedup_columns(baseline: str, rows: Sequence[Row]) -> tuple[Column, ...]:
    """Over the named baseline, own 0 %, and the best dense way of its precision and of any.

    Own 0 % is shown where a sparse row has one; that a dense row is 1 over itself says nothing.
    """
    own = any(row.over_own is not None and row.case.sparsity > 0 for row in rows)
    return (
        Column("best_dense_same", ("Best dense of its precision",), align="left", shown=False),
        Column("best_dense", ("Best dense",), align="left", shown=False),
        Column("speedup", (_HEAD, "over", baseline), "×", interval="range"),
        Column("speedup_over_own", (_HEAD, "over", "own 0 %"), "×", interval="range", shown=own),
        Column(
            "speedup_over_best_same", (_HEAD, "over best dense of", "its precision"), "×",
            interval="half",
        ),
        Column(
            "speedup_over_best", (_HEAD, "over best dense of", "any precision"), "×",
            interval="half",
        ),
    )  # fmt: skip


def speedup_cells(row: Row, over_baseline: Cell) -> Cells:
    """The cells of those columns; the first may come marked."""
    return (
        Cell(row.best_dense_same),
        Cell(row.best_dense),
        over_baseline,
        speedup_cell(row, row.over_own),
        speedup_cell(row, row.over_best_same),
        speedup_cell(row, row.over_best),
    )


def dense_notes(rows: Sequence[Row]) -> tuple[str, ...]:
    """Which dense way was the best of each precision at each batch, and which ones have no time."""
    found: dict[int, Row] = {}
    for row in sorted(rows, key=lambda row: row.case.batch):
        if row.dense:
            found.setdefault(row.case.batch, row)
    best = "; ".join(f"batch {batch}: {_best_of_each(row)}" for batch, row in found.items())
    left_out = unique(
        f"{name} ({reason})"
        for row in rows
        if row.record.measurement is not None
        for name, reason in row.record.measurement.dense_left_out.items()
    )
    return (
        f"Best dense, {best}." if best else "Best dense: not measured.",
        *([f"Dense ways without a time: {'; '.join(left_out)}."] if left_out else []),
    )


def _best_of_each(row: Row) -> str:
    """`fp32 cs-dense 0.590 ms, fp16 cudnn 0.387 ms`"""
    first = {way.dtype: way for way in reversed(row.dense)}
    dtypes = sorted(first, key=lambda dtype: first[dtype].time_ms, reverse=True)
    ways = (first[dtype] for dtype in dtypes)
    return ", ".join(f"{way.dtype} {_bare(way.name)} {way.time_ms:.3f} ms" for way in ways)


def _bare(name: str) -> str:
    """A way's name without its precision: `cudnn`, `cs at 0 %`."""
    backend, _, rest = name.partition(" ")
    return " ".join([backend, *rest.split()[1:]])

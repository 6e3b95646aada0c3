"""What the figure shows of which rows: its panels, a panel's lines, and its dense horizontals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from csbench.report.dense import Way, baseline_way
from csbench.report.rows import Row
from csbench.report.tables.comparison import fastest, masked, nominal, place, setting


def panels(derived: Sequence[Row]) -> list[list[Row]]:
    """The rows of each setting; only those with lines where any has one, not single points."""
    own = sorted((row for row in derived if row.case.task == "infer"), key=setting)
    parts = [list(part) for _, part in groupby(own, setting)]
    drawn = [part for part in parts if lines(part)]
    return [part for part in drawn if max(map(len, lines(part).values())) > 1] or drawn


def lines(panel: Sequence[Row]) -> dict[str, list[Row]]:
    """By name of a line the rows of its pattern, by sparsity: at each the fastest backend's."""
    found: dict[str, dict[float, Row]] = {}
    for row, _ in fastest(panel):
        if row.case.pattern == "dense" or row.time_ms is None or masked(row):
            continue
        points = found.setdefault(line_name(row), {})
        held = points.setdefault(nominal(row), row)
        if held.time_ms is not None and row.time_ms.value < held.time_ms.value:
            points[nominal(row)] = row
    return {name: [points[at] for at in sorted(points)] for name, points in found.items()}


def line_name(row: Row) -> str:
    """The pattern, with parameters where they are a size and do not follow the sparsity."""
    return row.pattern if row.pattern in ("nm", "cs") else row.case.pattern


def runners(all_panels: Iterable[Sequence[Row]]) -> list[tuple[str, str]]:
    """Name and backend of every line, each once, as csbench lists patterns."""
    found = {
        (name, row.case.backend)
        for panel in all_panels
        for name, points in lines(panel).items()
        for row in points
    }

    return sorted(found, key=lambda runner: (*place(runner[0].partition(":")[0]), runner))


def dense_lines(panel: Sequence[Row]) -> list[Way]:
    """The baseline, the best dense way of its precision, and the best of any."""
    row = next(row for row in panel if row.dense)
    named = (baseline_way(row.record), row.best_dense_same, row.best_dense)
    return [way for way in reversed(row.dense) if way.name in named]

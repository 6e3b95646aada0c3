"""Patterns side by side: at each sparsity a row a pattern, by the backend that is its fastest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from csbench.core.axes import SPARSITIES
from csbench.core.case import DTYPES
from csbench.core.pattern import BUILT_IN
from csbench.report.provenance import Source
from csbench.report.rows import Row
from csbench.report.table import CODES, Cells, Table, groups_of, hide_empty
from csbench.report.tables.cells import baseline_cell, percent, shape
from csbench.report.tables.inference import cells, columns, marked, notes

NAME = "comparison"
_SAME = 0.01  # baselines that differ by less are the same to a reader
_NEAR = 0.005  # a checkpoint of whole blocks seldom has exactly 75 %


def comparison(rows: Sequence[Row], source: Source) -> list[Table]:
    """One table for each setting in which several patterns were measured."""
    parts = _compared(rows)
    patterns: dict[object, set[str]] = {}  # of a model, input, device and baseline
    for row in (row for part in parts for row in part):
        patterns.setdefault(setting(row)[:4], set()).add(row.pattern)
    return [_table(part, patterns[setting(part[0])[:4]], source) for part in parts]


def told(rows: Sequence[Row]) -> frozenset[str]:
    """Keys of the records of which a comparison says all: its rows, and backends without a time
    that its notes name."""
    found = [line for part in _compared(rows) for line in fastest(part)]
    return frozenset(
        row.record.key
        for first, others in found
        for row in (first, *(other for other in others if other.time_ms is None))
    )


def _compared(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of inference of each setting in which several patterns were measured."""
    own = [row for row in rows if row.case.task == "infer"]
    parts = (list(part) for _, part in groupby(sorted(own, key=setting), setting))
    return [part for part in parts if len({row.pattern for row in part} - {"dense"}) > 1]


def setting(row: Row) -> tuple[object, ...]:
    """What rows that are compared have in common."""
    case = row.case
    precision = DTYPES.index(case.dtype)
    return (case.model, shape(case.input), row.device, case.baseline, case.batch, precision)


def nominal(row: Row) -> float:
    """The sparsity in whose group a row stands: the usual one where its own is near."""
    own = row.case.sparsity
    nearest = min(SPARSITIES, key=lambda sparsity: abs(sparsity - own))
    return nearest if abs(nearest - own) <= _NEAR else own


def fastest(rows: Iterable[Row]) -> list[tuple[Row, list[Row]]]:
    """Of each pattern, sparsity and checkpoint the fastest row, and the rows of other backends.

    Dense networks are not a pattern: each backend of theirs stays a row.
    """
    alike: dict[tuple[object, ...], list[Row]] = {}
    for row in sorted(rows, key=_order):
        case = row.case
        backend = case.backend if case.pattern == "dense" else None
        key = (nominal(row), case.pattern, case.checkpoint, backend)
        alike.setdefault(key, []).append(row)
    ranked = (sorted(part, key=_speed) for part in alike.values())
    return [(part[0], part[1:]) for part in ranked]


def _order(row: Row) -> tuple[object, ...]:
    """Dense rows first, then by sparsity, and patterns as csbench lists them."""
    dense = row.case.pattern == "dense"
    return (not dense, nominal(row), *place(row.pattern), row.case.pattern, row.case.backend)


def place(pattern: str) -> tuple[int, str]:
    """Patterns as csbench lists them, then others by name."""
    return (BUILT_IN.index(pattern) if pattern in BUILT_IN else len(BUILT_IN), pattern)


def masked(row: Row) -> bool:
    """Whether a row of sparse weights only multiplied their zeros."""
    return row.case.sparsity > 0 and row.sparse_layers is not None and not row.sparse_layers[0]


def _speed(row: Row) -> tuple[bool, bool, float]:
    """The fastest at the front, those without a time behind; what only multiplied zeros last."""
    return (masked(row), row.time_ms is None, row.time_ms.value if row.time_ms else 0.0)


def _table(rows: list[Row], patterns: Iterable[str], source: Source) -> Table:
    case = rows[0].case
    lines: list[tuple[str, Cells]] = []
    for title, part in groupby(fastest(rows), lambda found: _title(found[0])):
        rivals = list(part)
        best = marked([row for row, _ in rivals])
        lines += [
            (title, cells(row, *own, _beside(others)))
            for (row, others), own in zip(rivals, best, strict=True)
        ]
    table = Table(
        name=NAME,
        caption=f"Sparsity patterns of {case.model}, input {shape(case.input)}, batch "
        f"{case.batch}, {case.dtype}, on {rows[0].device}: of each the fastest backend; the "
        f"baseline is {case.baseline} in the same run and precision.",
        columns=columns(case.baseline, rows),
        groups=groups_of(lines),
        provenance=source.of(rows),
        notes=(*_baselines(rows), *_not_measured(rows, patterns), *notes(rows)),
    )
    return hide_empty(table)


def _baselines(rows: Iterable[Row]) -> tuple[str, ...]:
    """How far the baseline differs between the runs of rows that are compared."""
    found = [cell.number for row in rows if (cell := baseline_cell(row)).number is not None]
    if not found or max(found) <= (1 + _SAME) * min(found):
        return ()
    said = f"{next(iter(rows)).case.baseline} took {min(found):.3f} to {max(found):.3f} ms"
    return (f"{said} beside these rows, so the best time may not be the best speed-up.",)


def _not_measured(rows: Iterable[Row], patterns: Iterable[str]) -> tuple[str, ...]:
    """Which of the patterns compared in these records a group here lacks: bold says nothing of
    them."""
    groups: dict[float, set[str]] = {}
    for row in sorted(rows, key=nominal):
        if row.pattern != "dense":
            groups.setdefault(nominal(row), set()).add(row.pattern)
    said = []
    for name in sorted(set(patterns) - {"dense"}, key=place):
        lacking = [percent(sparsity) for sparsity, found in groups.items() if name not in found]
        if lacking:
            where = ", ".join(lacking) if len(lacking) < len(groups) else "any sparsity"
            said.append(f"{name} at {where}")
    return (f"Not measured, so not compared: {'; '.join(said)}.",) if said else ()


def _title(row: Row) -> str:
    return "dense" if row.case.pattern == "dense" else percent(nominal(row))


def _beside(others: Sequence[Row]) -> str | None:
    """What other backends of the same pattern came to."""
    said = (
        f"{row.case.backend} {row.time_ms.value:.3f} ms"
        if row.time_ms
        else f"{row.case.backend} {CODES[row.record.status]}"
        + (f" ({row.record.reason})" if row.record.reason else "")
        for row in others
    )
    return f"also: {', '.join(said)}" if others else None

"""Cells and columns that several tables share: what a status shows, what a note says."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from csbench.core.statistics import median
from csbench.report.dense import baseline_way
from csbench.report.rows import Estimate, Row
from csbench.report.table import CODES, MISSING, Cell

INTERVALS = "± and [ ] are 95 % bootstrap intervals of medians and of their ratio."

ENERGY = "Energy is the GPU's own counter over a second of runs, idle share included."

_MEANING = {
    "noisy": "the time ran out before the interval was narrow enough",
    "invalid": "the measurement does not count",
    "wrong": "the output differs from the float64 reference",
    "unsupported": "this case cannot run here",
    "oom": "out of memory",
    "timeout": "stopped at its time limit",
    "error": "the case failed",
}

# The cells show each row's interval: one note serves all rows whose interval is too wide. A count
# of pairs below ten stays in it.
_TOO_WIDE = (
    (r"interval ±[\d.]+ % after \d+ pairs, asked for ([\d.]+ %)",
     r"its interval is wider than the \1 asked for"),
    (r"the time over dense in [\w ,-]+ is not known within ([\d.]+ %)(?: after \d{2,} pairs)?",
     r"its time over dense is not known within \1"),
)  # fmt: skip
# Of the readings during a measurement, above which a time is said to be that of a capped GPU.
_CAPPED = 0.5
_POWER_CAPPED = "the GPU was at its power limit for more than half of the readings"
# Pairs share the GPU's clock: one that a hot kernel lowers slows its baseline down too.
_SLOWED = 0.01
_ALL_KEPT = "at 0 % the sparse kernels ran with every weight kept"
_LAUNCH_BOUND = "launch-bound: about as long as launching an empty graph"


def intervals(rows: Iterable[Row]) -> tuple[str, ...]:
    """What the intervals of a table of inference are of; nothing where no row has a time."""
    measured = (row.record.measurement for row in rows if row.time_ms is not None)
    counts = sorted({one.copies for one in measured if one is not None})
    if not counts:
        return ()
    if counts == [1]:
        only = " over one copy of each network; another, at other addresses, may differ by more."
        return (INTERVALS.removesuffix(".") + only,)
    several = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return (
        "± and [ ] are 95 % intervals of medians and of their ratio, over "
        f"{several} copies of each network at addresses of their own.",
    )


def conditions(rows: Sequence[Row]) -> tuple[str, ...]:
    """How a table of inference was measured: what its intervals are of, and on how many GPUs side
    by side."""
    together = [row.record.env.get("workers", 1) for row in rows if row.time_ms is not None]
    side_by_side = [count for count in together if count > 1]
    if not side_by_side:
        return intervals(rows)
    counts = " to ".join(map(str, dict.fromkeys((min(side_by_side), max(side_by_side)))))
    some = "" if len(side_by_side) == len(together) else f" for {len(side_by_side)} rows"
    shared = f"{counts} GPUs of one host measured at once{some}: they share its power, links, CPU."
    return (*intervals(rows), shared)


def time_cell(row: Row, scale: float = 1.0) -> Cell:
    """The median time, or the code of what stood in its way, with the reason as a note.

    `scale` turns milliseconds into the column's unit.
    """
    cell = estimate_cell(row.time_ms, scale)
    status, reason = row.record.status, row.record.reason
    if status == "ok":
        # A sound time may still have something to say: why it was no graph, what bounds it.
        return replace(cell, note="; ".join(filter(None, (reason, *_bounds(row)))) or None)
    code = CODES[status]
    for each, shared in _TOO_WIDE:
        reason = re.sub(each, shared, reason or "")
    said = (f"{code}: {reason or _MEANING[status]}", *_bounds(row))
    return replace(cell, code=code, note="; ".join(said))


def _bounds(row: Row) -> list[str]:
    """What held a time up, besides its kernels."""
    env = row.record.env
    capped = env.get("gpu_during", {}).get("power_capped", 0.0) > _CAPPED
    said = [_LAUNCH_BOUND] * bool(env.get("launch_bound")) + [_POWER_CAPPED] * capped
    slower = _slower_in_turn(row)
    if "gpu" in env and slower > _SLOWED:
        said.append(f"in turn with it its baseline took {100 * slower:.1f} % longer than alone")
    return said


def _slower_in_turn(row: Row) -> float:
    """How much longer the baseline took in the pairs than alone in the same process."""
    measured = row.record.measurement
    alone = measured.dense_samples_ms.get(baseline_way(row.record)) if measured else None
    if measured is None or not alone or not measured.baseline_samples_ms:
        return 0.0
    return median(measured.baseline_samples_ms) / median(alone) - 1


def speedup_cell(row: Row, estimate: Estimate | None) -> Cell:
    """A speed-up; beside a doubtful time it is doubtful too, and a failed row has none."""
    cell = estimate_cell(estimate)
    return cell if row.record.status == "ok" else replace(cell, code=_doubt(cell, row))


def _doubt(cell: Cell, row: Row) -> str | None:
    return CODES[row.record.status] if cell.number is not None else None


def estimate_cell(estimate: Estimate | None, scale: float = 1.0) -> Cell:
    """A number with its interval, both times `scale`."""
    if estimate is None:
        return MISSING
    value, low, high = (None if end is None else scale * end for end in estimate)
    return Cell(value, low, high)


def baseline_cell(row: Row, scale: float = 1.0) -> Cell:
    """The baseline's median time in the same run: from the pairs, so that the ratio agrees."""
    if row.time_ms is None or row.speedup is None:
        return MISSING
    return Cell(scale * row.time_ms.value * row.speedup.value)


def energy_cells(row: Row) -> tuple[Cell, Cell]:
    """Millijoules an image, of the row's network and of its baseline."""
    found = row.record.env.get("joules_per_image", {}) if row.time_ms is not None else {}
    spent = (found.get(name) for name in ("sparse", "baseline"))
    network, baseline = (MISSING if joules is None else Cell(1e3 * joules) for joules in spent)
    return network, baseline


def error_cell(row: Row) -> Cell:
    check = row.record.check
    return MISSING if check is None else Cell(check.relative_error)


def sparsity_cells(row: Row) -> tuple[Cell, Cell]:
    """Sparsity in % of the layers that carry the pattern, and of the whole model."""
    found = row.record.sparsity
    if found is None:
        return Cell(100 * row.case.sparsity), MISSING
    return Cell(100 * found.layers), Cell(100 * found.model)


def share_cell(row: Row) -> Cell:
    """How many layers ran sparse, of how many; as a note the reasons of the others, and what it
    means at 0 %."""
    layers = row.sparse_layers
    if layers is None:
        return MISSING
    reasons = unique(
        layer.reason for layer in row.record.layers if layer.ran == "dense" and layer.reason
    )
    said = []
    if reasons and layers[0]:
        said.append(f"layers that ran dense: {'; '.join(reasons)}")
    if layers[0] and not row.case.sparsity:
        said.append(_ALL_KEPT)
    return Cell(f"{layers[0]}/{layers[1]}", note="; ".join(said) or None)


def pattern_cell(row: Row) -> Cell:
    """The pattern; a row in which nothing ran sparse is called dense, whatever was asked for."""
    asked = row.case.pattern
    layers = row.sparse_layers
    if row.case.backend == "masked":
        return Cell(asked, note="masked: the sparse weights ran dense, zeros and all")
    if asked == "dense" or layers is None or layers[0]:
        return Cell(asked)
    dense = f"{row.case.backend} multiplies zeros like any number"
    reasons = Counter(layer.reason or dense for layer in row.record.layers)
    why = "; ".join(unique(reason for reason, _ in reasons.most_common()))
    return Cell("dense", note=f"{asked} was asked for, but no layer ran sparse: {why}")


def weights_cell(row: Row) -> Cell:
    """Bytes of all weights as stored, in MiB."""
    return MISSING if row.weight_bytes is None else Cell(row.weight_bytes / 2**20)


def checkpoint_cell(row: Row) -> Cell:
    """The checkpoint's file name; synthetic weights by their seed."""
    checkpoint = row.case.checkpoint
    if checkpoint.path:
        return Cell(Path(checkpoint.path).name)
    return MISSING if checkpoint.seed is None else Cell(f"seed {checkpoint.seed}")


def unique(words: Iterable[str | None]) -> list[str]:
    """Each word once, in order; at most five, for a note must stay readable."""
    found = list(dict.fromkeys(word for word in words if word))
    return found if len(found) <= 5 else [*found[:4], f"and {len(found) - 4} more reasons"]


def percent(sparsity: float) -> str:
    """`87.5 %`"""
    return f"{100 * sparsity:g} %"


def shape(size: Sequence[int]) -> str:
    """`3x224x224`"""
    return "x".join(str(n) for n in size)

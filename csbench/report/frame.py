"""Records as a pandas table, for notebooks and figures: a row a case, units in the names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from csbench.core.record import Record
from csbench.report.rows import Estimate, Row, rows

if TYPE_CHECKING:
    import pandas


def frame(records: Iterable[Record]) -> pandas.DataFrame:
    """One row a case with medians, speed-ups and their 95 % intervals; missing is NaN."""
    import pandas  # a third of a second: only for those who ask for a frame

    return pandas.DataFrame.from_records([_flat(row) for row in rows(records)])


def _flat(row: Row) -> dict[str, Any]:
    record, case = row.record, row.case
    sparse, layers = row.sparse_layers or (None, None)
    return {
        "key": record.key,
        "created": record.created,
        "status": record.status,
        "task": case.task,
        "model": case.model,
        "layer": case.layer,
        "pattern": case.pattern,
        "sparsity": case.sparsity,
        "backend": case.backend,
        "baseline": case.baseline,
        "device": row.device,
        "dtype": case.dtype,
        "batch": case.batch,
        **_estimate("time_ms", row.time_ms),
        **_estimate("speedup", row.speedup),
        **_estimate("speedup_over_own", row.over_own),
        **_estimate("speedup_over_best_same", row.over_best_same),
        "best_dense_same": row.best_dense_same,
        **_estimate("speedup_over_best", row.over_best),
        "best_dense": row.best_dense,
        "relative_error": record.check.relative_error if record.check else None,
        "sparsity_layers": record.sparsity.layers if record.sparsity else None,
        "sparsity_model": record.sparsity.model if record.sparsity else None,
        "weight_bytes": row.weight_bytes,
        "layers_sparse": sparse,
        "layers": layers,
        "mask_ms": record.mask_ms or None,
        "prepare_ms": record.prepare_ms,
        "peak_bytes": record.peak_bytes,
        "reason": record.reason,
    }


def _estimate(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    value, low, high = estimate or (None, None, None)
    return {name: value, f"{name}_low": low, f"{name}_high": high}

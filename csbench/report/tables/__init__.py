"""The tables by name: each turns rows into the tables of its kind, none where it has no data."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from csbench.report import TABLE_NAMES
from csbench.report.provenance import Source
from csbench.report.rows import Row
from csbench.report.table import Table
from csbench.report.tables.accuracy import accuracy
from csbench.report.tables.comparison import comparison
from csbench.report.tables.inference import inference
from csbench.report.tables.layers import layers
from csbench.report.tables.scaling import scaling
from csbench.report.tables.table10 import table10
from csbench.report.tables.table11 import table11
from csbench.report.tables.training_hours import training_hours

Build = Callable[[Sequence[Row], Source], list[Table]]

_BUILDERS: dict[str, Build] = {
    "table11": table11,
    "comparison": comparison,
    "inference": inference,
    "layers": layers,
    "training-hours": training_hours,
    "table10": table10,
    "scaling": scaling,
    "accuracy": accuracy,
}
# In the order of a whole report.
TABLES = {name: _BUILDERS[name] for name in TABLE_NAMES}
# Published whatever was measured: in a whole report only beside training records.
PUBLISHED_ALONE = ("training-hours", "table10")

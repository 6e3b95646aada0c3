"""Records in, a report out: which tables, with which labels, in which format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from csbench.core.record import Record
from csbench.core.training import TrainSettings
from csbench.errors import UsageError, unknown
from csbench.report import FORMATS, Format
from csbench.report.provenance import Source
from csbench.report.render import write
from csbench.report.rows import latest, rows
from csbench.report.table import Table
from csbench.report.tables import PUBLISHED_ALONE, TABLES, Build
from csbench.report.tables.comparison import told
from csbench.report.tables.inference import inference
from csbench.report.tables.table11 import anchored, table11

_NEEDS = {
    "table11": "block-cutlass or block-original records of resnet50; "
    "type: csbench infer --model resnet50 --pattern block",
    "comparison": "inference records of several patterns; type: csbench infer --model resnet50 "
    "--pattern all",
    "inference": "inference records; type: csbench infer --model resnet50 --pattern block",
    "layers": "layer records; type: csbench infer --model resnet50 --pattern block --per-layer",
    "scaling": "records of several ranks; type: torchrun --nproc-per-node 2 -m csbench train-time "
    "--pattern cs",
    "accuracy": "whole trainings; type: csbench train-time --pattern cs --model resnet20 "
    "--dataset digits --train",
}
# What these tables leave to others, or leave out, in a report of all.
_BESIDE_OTHERS: dict[str, Build] = {
    "inference": lambda rows, source: inference(rows, source, told(rows)),
    "table11": lambda rows, source: table11(anchored(rows), source),
}


def render(
    records: Iterable[Record],
    *,
    table: str = "all",
    format: Format = "text",
    standalone: bool = False,
) -> str:
    """The report of `records` as one text; raises UsageError where there is nothing for a table.

    `all` is every table that the records have data for: after `infer --pattern block`, Table 11
    and the general inference table; after `infer --pattern all` the comparison, and the general
    table of what the comparison does not show. Table 11 without a row at 0 % comes by name only.
    """
    if format not in FORMATS:
        raise UsageError(unknown("format", format, FORMATS))
    return write(tables(list(records), table), format, standalone=standalone)


def tables(records: Sequence[Record], table: str = "all") -> list[Table]:
    """The tables of one name, or of all names that have data, each with a label of its own."""
    if table != "all" and table not in TABLES:
        raise UsageError(unknown("table", table, ["all", *TABLES]))
    if not records:
        raise UsageError(f"no records to report; it needs {_NEEDS['inference']}")
    derived, source = rows(records), Source(records)
    trained = any(
        row.case.task == "train-step"
        and not (isinstance(row.case.training, TrainSettings) and row.case.training.whole)
        for row in derived
    )
    names = (
        [table] if table != "all" else [n for n in TABLES if trained or n not in PUBLISHED_ALONE]
    )
    build = TABLES if table != "all" else TABLES | _BESIDE_OTHERS
    built = [one for name in names for one in build[name](derived, source)]
    if not built:
        wanted = _NEEDS.get(table, _NEEDS["inference"])
        raise UsageError(
            f"the {len(records)} records have nothing for table '{table}'; it needs {wanted}"
        )
    repeats = len(records) - len(latest(records))
    repeat = "record repeats" if repeats == 1 else "records repeat"
    note = (f"{repeats} {repeat} a case; of each the last sound one counts.",) if repeats else ()
    return [replace(one, notes=one.notes + note) for one in _labelled(built)]


def _labelled(built: list[Table]) -> list[Table]:
    """Labels are the tables' names, numbered where a name comes more than once."""
    totals, seen = Counter(table.name for table in built), Counter[str]()
    labelled = []
    for table in built:
        seen[table.name] += 1
        many = totals[table.name] > 1
        label = f"{table.name}-{seen[table.name]}" if many else table.name
        labelled.append(replace(table, label=label))
    return labelled

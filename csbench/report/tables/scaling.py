"""Training on many GPUs: how much of the ideal throughput is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from msgspec import structs

from csbench.core.statistics import median
from csbench.report.provenance import Source
from csbench.report.rows import Estimate, Row, ratio
from csbench.report.table import MISSING, Cell, Cells, Column, Table, groups_of
from csbench.report.tables.cells import INTERVALS, estimate_cell, time_cell
from csbench.report.tables.training_hours import projected
from csbench.report.trained import Trained, trained

NAME = "scaling"


def scaling(rows: Sequence[Row], source: Source) -> list[Table]:
    """One table of every scheme that was probed under torchrun; none where nothing was."""
    probed = [one for one in trained(rows) if not one.asked.whole]
    many = [one for one in probed if one.asked.ranks]
    if not many:
        return []
    lines = [(_title(one), _cells(one, many)) for one in sorted(many, key=_order)]
    return [
        Table(
            name=NAME,
            caption="Training on several processes: a step is the slowest rank's.",
            columns=_COLUMNS,
            groups=groups_of(lines),
            provenance=source.of([one.row for one in many]),
            notes=(
                "Efficiency: images a second over those of one rank times the ranks. DDP's own "
                "cost: a dense step with DistributedDataParallel over one without, in turn.",
                *([projected(many)] if any(one.hours for one in many) else []),
                INTERVALS,
            ),
        )
    ]


_COLUMNS = (
    Column("scheme", ("Scheme",), align="left", stub=True),
    Column("ranks", ("Ranks",), decimals=0, stub=True),
    Column("step_ms", ("Step (ms)",), "ms", interval="half"),
    Column("images_per_second", ("Images", "a second"), decimals=0),
    Column("efficiency_percent", ("Efficiency", "(%)"), "%", decimals=1, interval="half"),
    Column("ddp_percent", ("DDP's own", "cost (%)"), "%", decimals=1),
    Column("hours_projected", ("Time (h)", "projected"), "h", interval="half"),
)


def _title(one: Trained) -> str:
    case = one.row.case
    return (
        f"{case.model} on {one.asked.dataset}, {one.row.device}, batch {case.batch} a rank, "
        f"{case.dtype}"
    )


def _order(one: Trained) -> tuple[str, str, int]:
    return (_title(one), one.scheme, one.asked.ranks)


def _cells(one: Trained, others: Sequence[Trained]) -> Cells:
    time = one.step_ms
    batch = one.row.case.batch * one.asked.ranks
    return (
        Cell(one.scheme),
        Cell(one.asked.ranks),
        time_cell(one.row),
        Cell(1e3 * batch / time.value) if time is not None else MISSING,
        estimate_cell(_efficiency(one, others), 100),
        _ddp(one),
        estimate_cell(one.hours),
    )


def _efficiency(one: Trained, others: Sequence[Trained]) -> Estimate | None:
    """With the same batch on every rank the ideal step takes as long as one rank's."""
    alone = next(
        (o for o in others if o.scheme == one.scheme and _same(o, one) and o.asked.ranks == 1),
        None,
    )
    if alone is None or one.step_ms is None or alone.step_ms is None:
        return None
    return Estimate(1.0) if alone is one else ratio(alone.step_ms, one.step_ms)


def _same(one: Trained, other: Trained) -> bool:
    """Whether all but the number of ranks agrees."""

    def alone(t: Trained) -> tuple[object, ...]:
        return replace(t, asked=structs.replace(t.asked, ranks=0)).setting

    return alone(one) == alone(other)


def _ddp(one: Trained) -> Cell:
    report = one.report
    if report is None or not report.ddp_ms or not report.plain_ms:
        return MISSING
    return Cell(100 * (median(report.ddp_ms) / median(report.plain_ms) - 1))

"""Projected training hours beside the published ones: what a step costs, and why."""

from __future__ import annotations

from collections.abc import Sequence

from csbench.core.statistics import median
from csbench.core.training import TrainingReport
from csbench.report.paper import compare, published
from csbench.report.provenance import Source
from csbench.report.rows import Estimate, Row
from csbench.report.table import MISSING, Cell, Cells, Column, Table, groups_of
from csbench.report.tables.agreement import agreement, is_theirs
from csbench.report.tables.cells import INTERVALS, estimate_cell, time_cell
from csbench.report.trained import Trained, over_nm, trained

NAME = "training-hours"
PARTS = ("data", "mask", "forward", "backward", "regulariser", "optimiser")


def training_hours(rows: Sequence[Row], source: Source) -> list[Table]:
    """One table: every probed scheme, then those that the source alone gives hours for."""
    paper = published("training_hours")
    hours: dict[str, float] = paper["hours"]
    probed = [one for one in trained(rows) if not one.asked.whole]
    lines = [(_title(one), _cells(one, probed, hours)) for one in probed]
    shown = {one.scheme for one in probed if is_theirs(one)}
    missing = [name for name in hours if name not in shown]
    lines += [("published alone" if probed else "", _published(name, hours)) for name in missing]
    return [
        Table(
            name=NAME,
            caption=f"{paper['title']}: published ({paper['source']}) beside projected.",
            columns=_COLUMNS,
            groups=groups_of(lines),
            provenance=source.of([one.row for one in probed]),
            notes=tuple(_notes(probed, paper)),
        )
    ]


_COLUMNS = (
    Column("model", ("Model",), align="left", shown=False),
    Column("dataset", ("Dataset",), align="left", shown=False),
    Column("device", ("Device",), align="left", shown=False),
    Column("batch", ("Batch",), decimals=0, shown=False),
    Column("dtype", ("Precision",), align="left", shown=False),
    Column("ranks", ("Ranks",), decimals=0, shown=False),
    Column("scheme", ("Scheme",), align="left", stub=True),
    Column("pattern", ("Pattern",), align="left", stub=True),
    Column("step_ms", ("Step (ms)",), "ms", interval="half"),
    Column("overhead_percent", ("Step over", "dense (%)"), "%", interval="half"),
    Column("steps_per_epoch", ("Steps", "an epoch"), decimals=0),
    Column("epochs", ("Epochs",), decimals=0),
    Column("hours_projected", ("Time (h)", "projected"), "h", interval="half"),
    Column("hours_published", ("Time (h)", "published"), "h", decimals=2),
    Column("ratio_projected", ("Time over N:M", "projected"), decimals=3, interval="range"),
    Column("ratio_published", ("Time over N:M", "published"), decimals=3),
    *(
        Column(f"{part}_ms", ("Parts of a step (ms)", part), "ms", decimals=2, panel=1)
        for part in PARTS
    ),
    Column("events_ms", ("Parts of a step (ms)", "mask updates"), "ms", decimals=3, panel=1),
    Column("flops_ratio", ("FLOPs over", "dense"), decimals=3, panel=1),
    Column("self_check_percent", ("Self-", "check (%)"), "%", decimals=1, panel=1),
    Column("peak_over_dense_mib", ("Memory +", "(MiB)"), "MiB", decimals=0, panel=1),
)


def _title(one: Trained) -> str:
    case, asked = one.row.case, one.asked
    plural = "s" if asked.ranks > 1 else ""
    ranks = f", {asked.ranks} rank{plural}" if asked.ranks else ""
    return (
        f"{case.model} on {asked.dataset} ({asked.data} images), {one.row.device}, batch "
        f"{case.batch}, {case.dtype}{ranks}"
    )


def _cells(one: Trained, others: Sequence[Trained], hours: dict[str, float]) -> Cells:
    case, asked, parts = one.row.case, one.asked, one.split_ms
    theirs, their_ratio = _theirs(one.scheme, hours) if is_theirs(one) else (MISSING, MISSING)
    error = one.error
    return (
        Cell(case.model),
        Cell(asked.dataset),
        Cell(one.row.device),
        Cell(case.batch),
        Cell(case.dtype),
        Cell(max(1, asked.ranks)),
        Cell(one.scheme),
        Cell(case.pattern),
        time_cell(one.row),
        _percent(one.overhead),
        Cell(asked.steps_per_epoch),
        Cell(asked.epochs),
        estimate_cell(one.hours),
        theirs,
        estimate_cell(over_nm(one, others)),
        their_ratio,
        *(Cell(parts.get(part)) for part in PARTS),
        Cell(one.events_ms),
        Cell(one.flops),
        MISSING if error is None else Cell(100 * error),
        _memory(one),
    )


def _published(scheme: str, hours: dict[str, float]) -> Cells:
    known = {"scheme": Cell(scheme)}
    known["hours_published"], known["ratio_published"] = _theirs(scheme, hours)
    return tuple(known.get(column.key, MISSING) for column in _COLUMNS)


def _theirs(scheme: str, hours: dict[str, float]) -> tuple[Cell, Cell]:
    if scheme not in hours:
        return MISSING, MISSING
    return Cell(hours[scheme]), Cell(hours[scheme] / hours["nm"])


def _percent(share: Estimate | None) -> Cell:
    return estimate_cell(share, 100)


def _memory(one: Trained) -> Cell:
    own = one.row.record.peak_bytes
    dense = one.report.dense_peak_bytes if one.report else None
    # On a CPU the peak is the whole process's, both trainings included: nothing to compare.
    if own is None or dense is None or one.row.case.device == "cpu":
        return MISSING
    return Cell((own - dense) / 2**20)


def _notes(probed: Sequence[Trained], paper: dict[str, object]) -> list[str]:
    notes = [f"The source claims: {paper['claim']}."]
    if not probed:
        return notes
    if all(one.hours is None for one in probed):
        return [*notes, _comparability(probed, paper)]
    notes += [
        projected(probed),
        "Time over N:M is at equal epochs, of two runs one after the other: its interval does not "
        "hold what the machine itself changed between them. Step over dense is against dense "
        "training in the same run, for dense itself against a plain PyTorch loop. Self-check: how "
        "far the short samples were off for a longer window. Memory: the peak above that of dense "
        "training.",
        INTERVALS,
    ]
    loaders = [one for one in probed if one.report and one.report.loader_ms]
    notes += [
        f"The loader alone takes {median(one.report.loader_ms):.1f} ms a batch ({one.scheme})."
        for one in loaders
        if one.report
    ]
    hours = paper["hours"]
    assert isinstance(hours, dict)
    found = [agreement(one, probed, hours) for one in probed if one.scheme == "cs"]
    notes += [paragraph for paragraph in found if paragraph]
    return [*notes, _comparability(probed, paper)]


def _comparability(probed: Sequence[Trained], paper: dict[str, object]) -> str:
    settings = paper["setting"]
    assert isinstance(settings, dict)
    return str(compare(settings, _measured(probed)))


def _measured(probed: Sequence[Trained]) -> dict[str, str]:
    """The settings of the probes; several values where they differ."""
    each = [
        {
            "GPU": one.row.device, "number of GPUs": str(max(1, one.asked.ranks)),
            "model": one.row.case.model, "batch": str(one.row.case.batch),
            "dtype": one.row.case.dtype, "epochs": str(one.asked.epochs),
        }
        for one in probed
    ]  # fmt: skip
    return {name: " and ".join(dict.fromkeys(ours[name] for ours in each)) for name in each[0]}


def projected(probed: Sequence[Trained]) -> str:
    """What hours are made of, and what they leave out."""
    reports = (one.report for one in probed if isinstance(one.report, TrainingReport))
    left_out = dict.fromkeys(what for report in reports for what in report.left_out)
    return (
        "All hours are projected: steps, mask updates and validation that were sampled, times how "
        f"often the schedule has them. Left out: {'; '.join(left_out)}."
    )

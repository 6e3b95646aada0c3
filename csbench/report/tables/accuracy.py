"""Accuracy of whole trainings, in the layout of the source's Table 3: CS-C and CS apart."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from csbench.report.provenance import Source
from csbench.report.rows import Row
from csbench.report.table import CODES, MISSING, Cell, Cells, Column, Table, groups_of
from csbench.report.trained import Trained, trained

NAME = "accuracy"
_NEAR = 0.005  # sparsities that differ by less are the same to a reader
_NAMES = {
    "dense": "Dense", "unstructured": "Unstructured", "block": "Block", "nm": "N:M", "ovw": "OVW",
    "shfl-bw": "Shfl_BW", "cs-c": "CS-C", "cs": "CS",
}  # fmt: skip


def accuracy(rows: Sequence[Row], source: Source) -> list[Table]:
    """One table for each data set that networks were trained on to the end."""
    whole = [one for one in trained(rows) if one.asked.whole]

    def key(one: Trained) -> tuple[str, int]:
        return (one.asked.dataset, one.asked.epochs)

    return [
        _table(dataset, list(part), source)
        for (dataset, _), part in groupby(sorted(whole, key=key), key)
    ]


def _table(dataset: str, runs: list[Trained], source: Source) -> Table:
    sparsities = sorted({one.row.case.sparsity for one in runs if one.scheme != "dense"})
    lines = [
        (one_model, line)
        for one_model, part in groupby(sorted(runs, key=_order), lambda one: one.row.case.model)
        for line in _lines(list(part), sparsities)
    ]
    return Table(
        name=NAME,
        caption=f"Top-1 accuracy (%) on {dataset} after {runs[0].asked.epochs} epochs, by sparsity "
        "of the sparsified layers (layout of Table 3 of Zhao et al., TMLR 2023).",
        columns=(
            Column("scheme", ("Pattern",), align="left", stub=True),
            Column("dense", ("Sparsity (%)", "0"), decimals=2),
            *(
                Column(f"at_{100 * s:g}", ("Sparsity (%)", f"{100 * s:g}"), decimals=2)
                for s in sparsities
            ),
            Column("loss_first", ("Loss", "first epoch"), decimals=3),
            Column("loss_last", ("Loss", "last epoch"), decimals=3),
        ),
        groups=groups_of(lines),
        provenance=source.of([one.row for one in runs]),
        notes=(_settings(runs), "Losses are those of the highest sparsity in the row."),
    )


def _order(one: Trained) -> tuple[str, int, float]:
    names = list(_NAMES)
    place = names.index(one.scheme) if one.scheme in names else len(names)
    return (one.row.case.model, place, one.row.case.sparsity)


def _lines(runs: list[Trained], sparsities: Sequence[float]) -> list[Cells]:
    found = []
    for scheme, part in groupby(runs, lambda one: one.scheme):
        by_sparsity = {one.row.case.sparsity: one for one in part}
        last = list(by_sparsity.values())[-1].report
        losses = [epoch.loss for epoch in last.epochs] if last and last.epochs else []
        found.append(
            (
                Cell(_NAMES.get(scheme, scheme)),
                _cell(by_sparsity.get(0.0)),
                *(_cell(by_sparsity.get(s)) for s in sparsities),
                Cell(losses[0]) if losses else MISSING,
                Cell(losses[-1]) if losses else MISSING,
            )
        )
    return found


def _cell(one: Trained | None) -> Cell:
    if one is None:
        return MISSING
    record = one.row.record
    if record.status != "ok" or one.report is None or not one.report.epochs:
        code = CODES.get(record.status, "ERROR")
        return Cell(code=code, note=f"{code}: {record.reason}")
    note = None
    if record.sparsity is not None and abs(record.sparsity.layers - one.row.case.sparsity) > _NEAR:
        note = f"units are kept whole: {100 * record.sparsity.layers:.2f} % is reached"
    return Cell(100 * one.report.epochs[-1].accuracy, note=note)


def _settings(runs: Sequence[Trained]) -> str:
    case = runs[0].row.case
    recipes = {
        f"{one.report.recipe.lr:g}"
        + (f"/{one.report.recipe.finetune_lr:g}" if one.report.recipe.finetune_lr else "")
        for one in runs
        if one.report
    }
    return (
        f"Batch {case.batch}, {case.dtype}, images {'x'.join(map(str, case.input))}, initial "
        f"learning rates {' and '.join(sorted(recipes))}, the same seed and epochs for all."
    )

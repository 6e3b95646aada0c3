"""Table 10 of Zhao et al., TMLR 2023: published training settings, and those of the probes."""

from __future__ import annotations

from collections.abc import Sequence

from csbench.report.paper import published
from csbench.report.provenance import Source
from csbench.report.rows import Row
from csbench.report.table import MISSING, Cell, Column, Group, Table
from csbench.report.trained import Trained, trained

NAME = "table10"


def table10(rows: Sequence[Row], source: Source) -> list[Table]:
    """The settings as the source prints them; a probe's own settings in a column beside each."""
    paper = published(NAME)
    own = {one.scheme: one for one in reversed(trained(rows)) if one.report is not None}
    columns = [Column("hyperparameter", ("Hyperparameters",), align="left", stub=True)]
    cells: list[list[Cell]] = [[Cell(line["name"]) for line in paper["rows"]]]
    for i, head in enumerate(paper["columns"]):
        scheme = head["scheme"]
        title = ("Published", head["head"])
        columns.append(Column(f"{scheme}_published", title, align="left"))
        cells.append([Cell(line["values"][i]) for line in paper["rows"]])
        if scheme in own:
            columns.append(_column(scheme))
            cells.append(_settings(own.pop(scheme), len(paper["rows"])))
    for scheme, one in own.items():
        columns.append(_column(scheme))
        cells.append(_settings(one, len(paper["rows"])))
    return [
        Table(
            name=NAME,
            caption=f"{paper['title']} ({paper['source']}).",
            columns=tuple(columns),
            groups=(Group(tuple(zip(*cells, strict=True))),),
            provenance=source.of([one.row for one in trained(rows)]),
            notes=(
                "N/A stands in the source. The mark x2 is read as two stages, pretraining and "
                "finetuning, of the stated epochs each.",
            ),
        )
    ]


def _column(scheme: str) -> Column:
    return Column(f"{scheme}_csbench", ("csbench", scheme), align="left")


def _settings(one: Trained, lines: int) -> list[Cell]:
    """Scheme, batch, epochs, initial rate, momentum, extra method: in the source's order."""
    assert one.report is not None
    recipe, epochs = one.report.recipe, one.asked.epochs
    stages = recipe.finetune_lr is not None
    rate = f"{recipe.lr:g}"
    if recipe.finetune_lr is not None and recipe.finetune_lr != recipe.lr:
        rate += f"/{recipe.finetune_lr:g}"
    ranks = f" x {one.asked.ranks} ranks" if one.asked.ranks > 1 else ""
    found = [
        Cell(recipe.scheme),
        Cell(f"{one.row.case.batch}{ranks}"),
        Cell(f"{epochs // 2}+{epochs - epochs // 2}" if stages else f"{epochs}"),
        Cell(rate),
        Cell(f"{recipe.momentum:g}"),
        Cell(recipe.method),
    ]
    return (found + [MISSING] * lines)[:lines]

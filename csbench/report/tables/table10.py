"""Table 10 of Zhao et al., TMLR 2023: the published training settings."""

from __future__ import annotations

from collections.abc import Sequence

from csbench.report.paper import published
from csbench.report.provenance import Source
from csbench.report.rows import Row
from csbench.report.table import Cell, Column, Group, Table

NAME = "table10"


def table10(rows: Sequence[Row], source: Source) -> list[Table]:
    """The settings as the source prints them; a probe's own settings get a column beside each."""
    paper = published(NAME)
    heads = paper["columns"]
    columns = [
        Column("hyperparameter", ("Hyperparameters",), align="left", stub=True),
        *(
            Column(f"{c['scheme']}_published", ("Published", c["head"]), align="left")
            for c in heads
        ),
    ]
    lines = [(Cell(line["name"]), *(Cell(v) for v in line["values"])) for line in paper["rows"]]
    return [
        Table(
            name=NAME,
            caption=f"{paper['title']} ({paper['source']}).",
            columns=tuple(columns),
            groups=(Group(tuple(lines)),),
            provenance=source.of(()),
            notes=("N/A stands in the source.",),
        )
    ]

"""csbench patterns: names, parameters, sparsities and what is kept."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click
from tabulate import tabulate

if TYPE_CHECKING:
    from csbench.sparse.patterns import Listed


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-v", "--verbose", is_flag=True, expose_value=False, help="Show tracebacks.")
def command(as_json: bool) -> None:
    """List sparsity patterns, those of plug-ins too, and what their parameters mean.

    A specification is name[:parameters][@sparsity], with the sparsity as a fraction or percentage:
    block:32x32@75%, nm:2:4, cs:16.
    """
    from csbench.sparse.patterns import listing  # loads torch: not for help

    found = listing()
    click.echo(json.dumps([asdict(p) for p in found], indent=2) if as_json else _text(found))


def _text(found: list[Listed]) -> str:
    rows = [
        (p.name, p.about.parameters, p.about.sparsities, p.about.keeps, p.about.example, p.source)
        for p in found
        if p.about is not None
    ]
    headers = ("pattern", "parameters", "sparsity", "kept", "example", "from")
    table = tabulate(rows, headers, "simple", maxcolwidths=[None, 28, 24, 38, None, None])
    broken = [f"broken: {p.name} (from {p.source}): {p.problem}" for p in found if p.problem]
    notes = [
        "'cs' is Complementary Sparsity as in Zhao et al., TMLR 2023; Numenta's method of the same "
        "name is another one."
    ]
    return "\n".join([table, "", *notes, *broken])

"""csbench inspect: what sparsity a checkpoint holds, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from csbench.errors import PatternError

if TYPE_CHECKING:
    from csbench.sparse.inspection import Inspection, LayerInspection


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--pattern", metavar="P", help="Check this pattern; exit 2 where it is broken.")
@click.option("--classifier", is_flag=True, help="Expect the pattern in the classifier too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-v", "--verbose", is_flag=True, expose_value=False, help="Show tracebacks.")
def command(file: Path, pattern: str | None, classifier: bool, as_json: bool) -> None:
    """Say what sparsity a checkpoint FILE holds, layer by layer.

    The pattern is read from the zeros; --pattern checks a given one and says where it is broken.

    \b
    Examples:
      csbench inspect resnet50.pth
      csbench inspect pruned.safetensors --pattern nm:2:4
    """
    from csbench.core.pattern import parse

    spec = parse(pattern) if pattern is not None else None
    from csbench.sparse import checkpoint  # loads torch: not for help, nor for a wrong pattern
    from csbench.sparse.inspection import inspect
    from csbench.sparse.network import Policy

    found = inspect(checkpoint.load(file), spec, Policy(classifier=classifier))
    click.echo(_json(found) if as_json else _text(found))
    if spec is not None and found.broken is not None:
        raise PatternError(f"'{file}' breaks {found.pattern}: {found.broken}")


def _json(found: Inspection) -> str:
    import msgspec

    return msgspec.json.format(msgspec.json.encode(found), indent=2).decode()


def _text(found: Inspection) -> str:
    from tabulate import tabulate

    headers = ("layer", "shape", "sparsity %", "zeros keep", "violations", "padding %", "note")
    right = ("left", "left", "right", "left", "right", "right", "left")
    rows = [_row(layer) for layer in found.layers]
    table = tabulate(rows, headers, "simple", colalign=right, disable_numparse=True)
    carrying = sum(layer.reason is None for layer in found.layers)
    lines = [
        f"file     {found.path}",
        f"sha256   {found.sha256}",
        *(f"{key:8} {value}" for key, value in sorted(found.metadata.items())),
        "",
        table,
        "",
        f"pattern  {found.pattern} in {carrying} of {len(found.layers)} layers"
        + ("" if found.broken is None else ", broken"),
        f"sparsity {100 * found.sparsity.layers:.2f} % of those layers, "
        f"{100 * found.sparsity.model:.2f} % of all convolution and linear weights",
    ]
    if found.broken is not None:
        lines.append(f"broken   {found.broken}")
    return "\n".join(lines)


def _row(layer: LayerInspection) -> tuple[str, ...]:
    weights = 1
    for size in layer.shape:
        weights *= size
    note = "" if layer.reason is None else f"dense: {layer.reason}"
    if layer.first:
        note = f"first at {', '.join(str(list(at)) for at in layer.first[:2])}"
    return (
        layer.name,
        "x".join(str(size) for size in layer.shape),
        f"{100 * layer.sparsity:.2f}",
        layer.pattern,
        str(layer.violations) if layer.reason is None else "--",
        f"{100 * layer.padding / weights:.1f}" if layer.reason is None else "--",
        note,
    )

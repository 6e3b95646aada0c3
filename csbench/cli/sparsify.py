"""csbench sparsify: prune a checkpoint or a model to a pattern and save it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from tabulate import tabulate

from csbench.core.pattern import PatternSpec, parse, parse_sparsity
from csbench.core.record import Sparsity
from csbench.errors import PatternError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from csbench.sparse.network import Plan


class Sparsified(msgspec.Struct, frozen=True, kw_only=True):
    """What was written: per layer its sparsity, and why it stayed dense (None where it did not)."""

    path: str
    sha256: str
    pattern: str
    sparsity: Sparsity
    layers: tuple[dict[str, Any], ...]


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--model", metavar="M", help="Prune this model with synthetic weights instead.")
@click.option("--pattern", metavar="P", required=True, help="block:32x32, nm:2:4, cs:4, ovw:32 ...")
@click.option("--sparsity", metavar="S", help="A fraction (0.75) or a percentage (75%).")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="OUT")
@click.option("--seed", default=0, show_default=True, help="Of the synthetic weights.")
@click.option("--classifier", is_flag=True, help="Prune the classifier too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-v", "--verbose", is_flag=True, expose_value=False, help="Show tracebacks.")
def command(
    file: Path | None, model: str | None, pattern: str, sparsity: str | None, output: Path,
    seed: int, classifier: bool, as_json: bool,
) -> None:  # fmt: skip
    """Prune a checkpoint FILE, or --model with synthetic weights, to a pattern by magnitude.

    \b
    Examples:
      csbench sparsify resnet50.pth --pattern nm:2:4 -o pruned.safetensors
      csbench sparsify --model resnet50 --pattern block --sparsity 75% -o block.safetensors
    """
    spec = _spec(pattern, sparsity)
    _one_source(file, model)
    # These load torch: not for help, nor for a wrong option.
    from csbench.sparse import checkpoint
    from csbench.sparse.network import Policy, sparsify_state, sparsities

    target = checkpoint.target(output)
    state, origin = _weights(file, model, seed)
    pruned, layers = sparsify_state(state, spec, Policy(classifier=classifier))
    if model is not None:
        pruned = _calibrated(model, pruned, seed)
    both = sparsities(pruned, layers)
    notes = {"pattern": str(spec), "sparsity": f"{both.layers!r}", **origin}
    digest = checkpoint.save(target, pruned, notes)
    done = Sparsified(
        path=str(target), sha256=digest, pattern=str(spec), sparsity=both,
        layers=_layers(pruned, layers),
    )  # fmt: skip
    click.echo(_json(done) if as_json else _text(done))


def _spec(pattern: str, sparsity: str | None) -> PatternSpec:
    spec = parse(pattern)
    if sparsity is None:
        return spec
    wanted = parse_sparsity(sparsity)
    if spec.sparsity is not None and spec.sparsity != wanted:
        raise PatternError(
            f"pattern '{spec}' and --sparsity {sparsity} differ; give the sparsity once"
        )
    return spec.at(wanted)


def _one_source(file: Path | None, model: str | None) -> None:
    if (file is None) == (model is None):
        raise UsageError(
            "expected one of FILE and --model; type csbench sparsify FILE --pattern P -o OUT, "
            "or --model resnet50 in place of FILE"
        )


def _weights(
    file: Path | None, model: str | None, seed: int
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The state dict to prune, and where it comes from."""
    from csbench.sparse import checkpoint

    if file is not None:
        loaded = checkpoint.load(file)
        kept = {k: v for k, v in loaded.metadata.items() if k in ("model", "seed")}
        return loaded.state_dict, {**kept, "source_sha256": loaded.sha256}
    assert model is not None
    from csbench import models  # not needed for a file

    return models.build(model, seed=seed).state_dict(), {"model": model, "seed": str(seed)}


def _calibrated(model: str, pruned: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Batch-norm statistics that fit synthetic weights after pruning."""
    from csbench import models

    network = models.build(model, seed=seed)
    network.load_state_dict(pruned)
    models.calibrate(network, models.default_input(model), seed)
    return network.state_dict()


def _layers(pruned: dict[str, Tensor], layers: Plan) -> tuple[dict[str, Any], ...]:
    from csbench.sparse.network import layers_of
    from csbench.sparse.patterns import sparsity as zeros

    return tuple(
        {
            "name": name,
            "shape": list(weight.shape),
            "sparsity": zeros(weight),
            "reason": None if isinstance(layers[name], PatternSpec) else layers[name],
        }
        for name, weight in layers_of(pruned).items()
    )


def _json(done: Sparsified) -> str:
    return msgspec.json.format(msgspec.json.encode(done), indent=2).decode()


def _text(done: Sparsified) -> str:
    rows = [
        (
            layer["name"],
            "x".join(str(n) for n in layer["shape"]),
            f"{100 * layer['sparsity']:.2f}",
            done.pattern if layer["reason"] is None else f"dense: {layer['reason']}",
        )
        for layer in done.layers
    ]
    table = tabulate(
        rows, ("layer", "shape", "sparsity %", "kept"), "simple",
        colalign=("left", "left", "right", "left"), disable_numparse=True,
    )  # fmt: skip
    carrying = sum(layer["reason"] is None for layer in done.layers)
    return "\n".join(
        [
            table,
            "",
            f"pattern  {done.pattern} in {carrying} of {len(rows)} layers",
            f"sparsity {100 * done.sparsity.layers:.2f} % of those layers, "
            f"{100 * done.sparsity.model:.2f} % of all convolution and linear weights",
            f"sha256   {done.sha256}",
            f"wrote    {done.path}",
        ]
    )

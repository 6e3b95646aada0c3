"""csbench infer: time a sparse network against the strongest dense version."""

from __future__ import annotations

from typing import Any

import click

from csbench.cli.options import Axis, inference, measuring, output
from csbench.core.stop import StopRule


@click.command()
@click.option(
    "--model",
    type=Axis("model"),
    required=True,
    metavar="M,...",
    help="resnet50, vgg16_bn, ...; timm:NAME, torchvision:NAME, FILE.py:factory.",
)
@click.option(
    "--pattern",
    type=Axis("pattern"),
    metavar="P,...",
    help="block, nm, cs, ovw, ..., or all; by default what the checkpoint holds, else dense.",
)
@click.option(
    "--sparsity", type=Axis("sparsity"), metavar="S,...", help="[0,50,75,87.5,93.75], in percent."
)
@click.option(
    "--checkpoint", multiple=True, metavar="FILE", help="Weights; may be given several times."
)
@click.option(
    "--backend", type=Axis("backend"), metavar="B,...", help="[all that run the pattern here]"
)
@click.option("--baseline", type=Axis("baseline"), metavar="B,...", help="[cudnn or onednn]")
@click.option("-b", "--batch-size", "batch", type=Axis("batch"), metavar="N,...", help="[1]")
@click.option("--dtype", type=Axis("dtype"), metavar="T,...", help="fp32, tf32, fp16, bf16 [fp32]")
@click.option("-d", "--device", type=Axis("device"), metavar="D", help="auto, cpu, cuda, cuda:1")
@click.option("--input-size", "input", type=Axis("input"), metavar="CxHxW", help="[the model's]")
@click.option("--per-layer", is_flag=True, help="Also a row for each distinct convolution.")
@click.option("--seed", type=Axis("seed"), metavar="N", help="Of weights, inputs and order [0].")
@measuring(StopRule())
@inference
@output
def command(
    per_layer: bool, checkpoint: tuple[str, ...], measuring: dict[str, Any],
    inference: dict[str, Any], output: dict[str, Any], **axes: Any,
) -> int:  # fmt: skip
    """Time a sparse network against the strongest dense version of it.

    Both are proved correct, then timed in turn; the speed-up comes with its 95 % interval.
    Records are appended to a file; csbench report makes tables of them.

    \b
    Examples:
      csbench infer --model resnet50 --pattern block
      csbench infer --model resnet50 --pattern all --sparsity 75
      csbench infer --model resnet50 --checkpoint pruned.safetensors -b 1,64
      csbench infer --model resnet50 --pattern cs --per-layer --dtype fp16
    """
    from csbench.cli.execute import execute, settings
    from csbench.core.axes import Sweep

    given = {name: value for name, value in axes.items() if value is not None}
    sweep = Sweep(
        checkpoint=checkpoint, task=("infer", "layer") if per_layer else ("infer",), **given
    )
    how = settings(measuring | inference, StopRule(), sweep.seed[0])
    return execute([sweep], how, output)

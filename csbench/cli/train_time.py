"""csbench train-time: time training steps of a sparsity scheme and project the hours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from csbench.cli.options import Axis, measuring, output
from csbench.core.stop import TRAINING


@click.command()
@click.option(
    "--pattern",
    required=True,
    metavar="P,...",
    help="Schemes: nm, cs, cs-c, ovw, shfl-bw, block, unstructured, dense; cs:4, nm:1:4, ...; "
    "nm-argsort is nm as its authors wrote it.",
)
@click.option("--model", default="resnet50", show_default=True, metavar="M")
@click.option("--sparsity", type=Axis("sparsity"), metavar="S,...", help="[50], in percent.")
@click.option(
    "--dataset",
    default="imagenet",
    show_default=True,
    metavar="D",
    help="imagenet, cifar100, digits or synthetic: image size, classes, steps of an epoch.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Read images: an ImageFolder tree, or the CIFAR-100 python files [synthetic].",
)
@click.option(
    "-b",
    "--batch-size",
    "batch",
    type=Axis("batch"),
    metavar="N,...",
    help="Of one rank [256 on a GPU, 4 on a CPU].",
)
@click.option("--epochs", type=click.IntRange(1), metavar="N", help="[the scheme's own]")
@click.option("--steps", type=click.IntRange(1), metavar="N", help="Of an epoch [images / batch].")
@click.option(
    "--amp",
    "dtype",
    is_flag=False,
    flag_value="bf16",
    type=click.Choice(["fp32", "tf32", "bf16", "fp16"]),
    help="[bf16 on a GPU, fp32 on a CPU]",
)
@click.option("-d", "--device", default="auto", show_default=True, metavar="D")
@click.option("--input-size", "input", type=Axis("input"), metavar="CxHxW", help="[the dataset's]")
@click.option("--channels-last/--contiguous", default=None, help="[channels last on a GPU]")
@click.option("--compile", is_flag=True, help="torch.compile, the dense training too.")
@click.option(
    "--interval",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    metavar="N",
    help="Steps between mask updates.",
)
@click.option("--train", "whole", is_flag=True, help="Train to the end instead of probing.")
@click.option("--lr", type=float, metavar="R", help="Initial learning rate [the scheme's].")
@click.option("--finetune-lr", type=float, metavar="R", help="Of the second stage.")
@click.option("--weight-decay", type=click.FloatRange(0), metavar="R", help="[the scheme's]")
@click.option("--warmup-epochs", type=click.IntRange(0), metavar="N", help="[the scheme's]")
@click.option(
    "--workers",
    type=click.IntRange(0),
    default=2,
    show_default=True,
    metavar="N",
    help="Processes that read images.",
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Start from these weights, for example what --save wrote.",
)
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Save the pruned weights; csbench infer --checkpoint loads them.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, metavar="N")
@measuring(TRAINING)
@output
def command(measuring: dict[str, Any], output: dict[str, Any], **asked: Any) -> int:
    """Time training steps of sparsity schemes and project the hours of their schedules.

    A step is split by cause and timed in turn with dense training; mask updates, searches and
    validation are timed apart. Everything printed is projected, not trained (but see --train).
    Under torchrun all ranks take part and one record is written.

    \b
    Examples:
      csbench train-time --pattern nm
      csbench train-time --pattern nm,cs --epochs 120 -b 256 --amp bf16
      csbench train-time --pattern cs --model resnet20 --dataset digits --epochs 20 --train
      torchrun --nproc-per-node 2 -m csbench train-time --pattern cs
    """  # fmt: skip
    from csbench.cli.training import execute

    return execute(asked, measuring, output)

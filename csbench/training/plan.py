"""From what was asked for to training cases, every default filled in and said."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from csbench import models
from csbench.core.case import Case, CheckpointRef
from csbench.core.pattern import PatternSpec
from csbench.core.training import TrainSettings
from csbench.errors import PatternError, UsageError
from csbench.sparse import checkpoint as checkpoints
from csbench.sparse import network
from csbench.training.datasets import dataset
from csbench.training.layers import commonest
from csbench.training.schemes import SCHEMES, specify

_BATCH = {"cuda": 256, "cpu": 4}  # the source's for N:M; on a CPU what takes seconds a step
_DTYPE = {"cuda": "bf16", "cpu": "fp32"}


class Asked(NamedTuple):
    """The choices of a command line or a suite; None takes the default."""

    scheme: str
    model: str = "resnet50"
    sparsity: float | None = None
    dataset: str = "imagenet"
    data: Path | None = None
    batch: int | None = None
    epochs: int | None = None
    steps: int | None = None
    dtype: str | None = None
    device: str = "auto"
    input: tuple[int, int, int] | None = None
    interval: int = 100
    channels_last: bool | None = None
    compile: bool = False
    whole: bool = False
    checkpoint: Path | None = None
    seed: int = 0
    ranks: int = 0
    lr: float | None = None
    finetune_lr: float | None = None
    weight_decay: float | None = None
    warmup_epochs: int | None = None


def plan(asked: Asked) -> Case:
    """The case; raises UsageError (and its kinds) for what cannot be."""
    name, spec = specify(asked.scheme, asked.sparsity)
    facts = dataset(asked.dataset)
    device = usable(asked.device)
    batch = asked.batch or _BATCH[device]
    size = asked.input or facts.input or models.default_input(asked.model)
    _insist_on_a_layer(asked.model, spec)
    if asked.dtype == "tf32" and device == "cpu":
        raise UsageError("tf32 is a precision of GPUs; on a CPU type --amp fp32 or bf16")
    if asked.data is not None and not asked.data.is_dir():
        raise UsageError(f"no data folder '{asked.data}'; expected {facts.source}")
    real = asked.data is not None or facts.name == "digits"
    steps = asked.steps or facts.steps_per_epoch(batch, asked.ranks)
    last = asked.channels_last
    training = TrainSettings(
        dataset=facts.name,
        epochs=asked.epochs or SCHEMES[name].own_epochs,
        steps_per_epoch=steps,
        data="real" if real else "synthetic",
        interval=asked.interval,
        ranks=asked.ranks,
        channels_last=device == "cuda" if last is None else last,
        compile=asked.compile,
        whole=asked.whole,
        lr=asked.lr,
        finetune_lr=asked.finetune_lr,
        weight_decay=asked.weight_decay,
        warmup_epochs=asked.warmup_epochs,
    )
    return Case(
        task="train-step", model=asked.model, pattern=spec.family, sparsity=spec.sparsity or 0.0,
        backend=name, baseline=_baseline(name, asked.ranks), device=device,
        dtype=asked.dtype or _DTYPE[device], batch=batch, input=size,
        checkpoint=_source(asked), training=training,
    )  # fmt: skip


def usable(device: str) -> str:
    """ "cpu" or "cuda"; raises UsageError where torch has no such device."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device 'cuda' was asked for, but torch sees none here; type -d cpu")
    if device not in _BATCH:
        raise UsageError(
            f"device '{device}': train-time takes auto, cpu or cuda; choose a GPU by "
            "CUDA_VISIBLE_DEVICES, several by torchrun"
        )
    return device


def _baseline(scheme: str, ranks: int) -> str:
    return "plain loop" if scheme == "dense" and not ranks else "dense"


def _source(asked: Asked) -> CheckpointRef:
    if asked.checkpoint is None:
        return CheckpointRef(seed=asked.seed)
    loaded = checkpoints.load(asked.checkpoint)
    return CheckpointRef(path=str(asked.checkpoint), sha256=loaded.sha256)


def _insist_on_a_layer(model: str, spec: PatternSpec) -> None:
    """Raises PatternError for a pattern that no layer of the model can take."""
    with torch.device("meta"):  # names and shapes are enough
        state = models.resolve(model)().state_dict()
    found = network.plan(state, spec)
    if not any(isinstance(carried, PatternSpec) for carried in found.values()):
        raise PatternError(f"no layer of {model} can carry {spec}: {commonest(found)}")

"""Training with a sparsity scheme as values: what was asked for, and the raw samples of a probe."""

from __future__ import annotations

import msgspec


class TrainSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a training case adds to a case: it is part of its key.

    `epochs` and `steps_per_epoch` make the whole schedule; `interval` is in steps. `data` is
    "synthetic" or "real"; `ranks` counts processes, 0 where none was launched.
    """

    dataset: str
    epochs: int
    steps_per_epoch: int
    data: str = "synthetic"
    interval: int = 100
    ranks: int = 0
    channels_last: bool = False
    compile: bool = False
    whole: bool = False  # trained to the end of the schedule, not probed
    lr: float | None = None  # these four in place of the scheme's own
    finetune_lr: float | None = None
    weight_decay: float | None = None
    warmup_epochs: int | None = None


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """Hyperparameters of SGD with momentum and a cosine schedule, as Table 10 lists them.

    `finetune_lr` is the initial rate of the second stage, None where there is one stage alone.
    """

    scheme: str  # "Pretrain+finetune" or "Training from scratch"
    method: str  # what it does besides training
    lr: float = 0.1
    finetune_lr: float | None = None
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup_epochs: int = 0
    decay: float = 0.0  # of pruned weights, SR-STE's


class PhaseReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A part of the schedule in which every step costs alike.

    `samples_ms[i]` and `dense_samples_ms[i]` are a pair. `split` are samples of a step's parts, by
    name, from steps of their own, in milliseconds; on a GPU also `ahead`, what it had still to do
    when the host had queued the step. `density` is the kept share of the sparsified layers,
    averaged.
    """

    name: str
    steps: int
    samples_ms: tuple[float, ...]
    dense_samples_ms: tuple[float, ...] = ()
    split: dict[str, tuple[float, ...]] = {}
    density: float = 1.0
    settled: bool = True


class EventReport(msgspec.Struct, frozen=True, kw_only=True):
    """Work beside the steps (a mask update, a search, a validation batch), `count` times in all."""

    name: str
    count: int
    samples_ms: tuple[float, ...]


class HeldOut(msgspec.Struct, frozen=True, kw_only=True):
    """The self-check: a longer window of real training, which the short samples have to predict."""

    phase: str
    steps: int
    events: int
    measured_ms: float


class Flops(msgspec.Struct, frozen=True, kw_only=True):
    """Theoretical multiply-adds times two of one step: dense, and of the sparsified layers."""

    dense_step: float
    sparsified_step: float


class EpochReport(msgspec.Struct, frozen=True, kw_only=True):
    """One epoch of a training run: mean loss, accuracy on the validation images, kept share."""

    loss: float
    accuracy: float
    density: float


class TrainingReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Raw results of a training case; hours and errors are derived (csbench.core.projection)."""

    recipe: Recipe
    phases: tuple[PhaseReport, ...] = ()
    events: tuple[EventReport, ...] = ()
    held_out: HeldOut | None = None
    flops: Flops | None = None
    loader_ms: tuple[float, ...] = ()  # a batch of the loader alone, nothing else running
    ddp_ms: tuple[float, ...] = ()  # a dense step with DistributedDataParallel ...
    plain_ms: tuple[float, ...] = ()  # ... and without, in turn
    dense_peak_bytes: int | None = None
    epochs: tuple[EpochReport, ...] = ()
    train_seconds: float | None = None
    left_out: tuple[str, ...] = ()

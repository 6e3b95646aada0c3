"""A whole training, to the end of a scheme's schedule: loss and accuracy epoch by epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch

from csbench.core.training import EpochReport, TrainingReport
from csbench.errors import UsageError
from csbench.training.probe import NotFinite
from csbench.training.schedule import learning_rate
from csbench.training.setup import Setup
from csbench.training.step import Trainer


def train(setup: Setup, say: Callable[[str], None]) -> tuple[TrainingReport, Trainer]:
    """Train from the first step to the last; raises NotFinite as soon as an epoch's loss is none.

    Accuracies are those of the weights as masked at the end of an epoch.
    """
    if setup.asked.data != "real":
        raise UsageError(
            "--train needs real images: type --dataset digits, or --data DIR; "
            "synthetic ones have nothing to learn"
        )
    source, trainer = setup.source(), setup.trainer()
    epochs, per_epoch = setup.asked.epochs, setup.asked.steps_per_epoch
    found: list[EpochReport] = []
    begun = time.perf_counter()
    for epoch in range(epochs):
        losses = []
        for step in range(epoch * per_epoch, (epoch + 1) * per_epoch):
            trainer.set_rate(learning_rate(setup.recipe, step, setup.steps, epochs))
            trainer.step(source.batch(), trainer.scheme.sparsity_at(step, setup.steps))
            assert trainer.last_loss is not None
            losses.append(trainer.last_loss)
        loss = setup.ranks.mean(float(torch.stack(losses).mean()))
        if not math.isfinite(loss):
            raise NotFinite(f"the loss is not finite in epoch {epoch + 1}; lower --lr")
        right, seen = torch.zeros((), device=setup.case.device), 0.0
        for batch in source.validation():
            right += trainer.evaluate(batch)
            seen += len(batch[1])
        accuracy = setup.ranks.mean(float(right)) / max(1e-9, setup.ranks.mean(seen))
        found.append(EpochReport(loss=loss, accuracy=accuracy, density=_density(trainer)))
        say(f"epoch {epoch + 1} of {epochs}: loss {loss:.4f}, accuracy {accuracy:.2%}")
    report = TrainingReport(
        recipe=setup.recipe,
        epochs=tuple(found),
        train_seconds=time.perf_counter() - begun,
        flops=setup.flops([] if setup.spec.name == "dense" else trainer.scheme.layers.names),
    )
    return report, trainer


def _density(trainer: Trainer) -> float:
    if trainer.scheme.spec.name == "dense":
        return 1.0
    return float(trainer.scheme.layers.mask.float().mean())

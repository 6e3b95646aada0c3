"""Schedules: how sparsity rises and how the learning rate falls over the steps of a training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from csbench.core.training import Recipe


@dataclass(frozen=True)
class Phase:
    """Neighbouring steps that cost alike.

    `density` is the mean kept share of the sparsified layers, `updates` counts how often the masks
    are chosen.
    """

    name: str
    steps: int
    density: float
    updates: int = 0


@dataclass(frozen=True)
class Gradual:
    """Cubic pruning (Zhu and Gupta, 2017): from 0 to `final` between two shares of the schedule.

    The masks are chosen anew every `interval` steps. The sparsity is reached at the share `ramp` of
    that stretch; what is left of it goes on choosing anew at the final sparsity.
    """

    final: float
    begin: float
    end: float
    interval: int
    ramp: float = 1.0

    def bounds(self, steps: int) -> tuple[int, int]:
        """The first step of the stretch, and the first one after it."""
        if steps == 1:
            return 0, 0  # the only step ends at `final`
        return round(self.begin * steps), max(1, round(self.end * steps))

    def at(self, step: int, steps: int) -> float | None:
        """The sparsity to choose masks for after this step; None where they stay."""
        first, last = self.bounds(steps)
        if step == last:
            return self.final
        if not first <= step < last or (step - first) % self.interval:
            return None
        share = (step - first) / max(1, self.ramp * (last - first))
        return self.final * (1 - (1 - min(1.0, share)) ** 3)

    def updates(self, steps: int) -> int:
        """How often the masks are chosen in the stretch, the last time at its end left out."""
        first, last = self.bounds(steps)
        return math.ceil((last - first) / self.interval)

    def density(self, steps: int) -> float:
        """The mean kept share over the stretch."""
        first, last = self.bounds(steps)
        marks = range(first, last, self.interval)
        kept = [(1 - (self.at(s, steps) or 0.0), min(self.interval, last - s)) for s in marks]
        return sum(share * count for share, count in kept) / max(1, last - first)


def learning_rate(recipe: Recipe, step: int, steps: int, epochs: int) -> float:
    """Cosine from the initial rate to 0, after a linear warm-up; anew for a second stage."""
    warmup = round(recipe.warmup_epochs * steps / max(1, epochs))
    if recipe.finetune_lr is None:
        return _cosine(recipe.lr, step, steps, warmup)
    half = steps // 2
    if step < half:
        return _cosine(recipe.lr, step, half, warmup)
    return _cosine(recipe.finetune_lr, step - half, steps - half, 0)


def _cosine(lr: float, step: int, steps: int, warmup: int) -> float:
    if step < warmup:
        return lr * (step + 1) / warmup
    share = (step - warmup) / max(1, steps - warmup)
    return lr * 0.5 * (1 + math.cos(math.pi * share))

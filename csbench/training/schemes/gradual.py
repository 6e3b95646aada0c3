"""Gradual magnitude pruning: the masks shrink along a cubic schedule, then stay."""

from __future__ import annotations

from typing import ClassVar

from csbench.core.pattern import PatternSpec
from csbench.training.schedule import Gradual, Phase
from csbench.training.schemes.base import Scheme, fixed


class GradualScheme(Scheme):
    """`begin`, `end` and `ramp` are shares of the schedule; see csbench.training.schedule."""

    begin: ClassVar[float] = 0.1
    end: ClassVar[float] = 0.5
    ramp: ClassVar[float] = 1.0

    def __init__(self, spec: PatternSpec, interval: int) -> None:
        super().__init__(spec, interval)
        self.gradual = Gradual(self.sparsity, self.begin, self.end, interval, self.ramp)

    def phases(self, steps: int) -> tuple[Phase, ...]:
        first, last = self.gradual.bounds(steps)
        middle = self.gradual.density(steps)
        found = (
            Phase("dense", first, 1.0),
            Phase("pruning", last - first, middle, self.gradual.updates(steps)),
            fixed(steps - last, self.sparsity, updates=1),
        )
        return tuple(phase for phase in found if phase.steps)

    def sparsity_at(self, step: int, steps: int) -> float | None:
        return self.gradual.at(step, steps)

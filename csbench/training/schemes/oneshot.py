"""Pretrain dense, prune once in the middle, finetune under the fixed mask."""

from __future__ import annotations

from csbench.training.schedule import Phase
from csbench.training.schemes.base import Scheme, fixed


class OneShot(Scheme):
    """Half of the schedule dense, then one search for the masks, and half under them."""

    def phases(self, steps: int) -> tuple[Phase, ...]:
        half = steps // 2
        return (
            Phase("dense", half, 1.0),
            fixed(steps - half, self.sparsity, updates=1),
        )

    def sparsity_at(self, step: int, steps: int) -> float | None:
        # After the last dense step, so that the second half begins under the masks.
        return self.sparsity if step == max(0, steps // 2 - 1) else None

"""dense: every weight is kept."""

from __future__ import annotations

import torch
from torch import Tensor

from csbench.sparse.formats import DensePacked
from csbench.sparse.layout import Shape
from csbench.sparse.patterns.base import About, Pattern, Verdict


class Dense(Pattern):
    """All weights; any weight keeps this pattern."""

    about = About("", "0 %", "every weight", "dense")

    def mask(self, weight: Tensor, sparsity: float | None = None) -> Tensor:
        self.target(weight, sparsity)
        return torch.ones_like(weight, dtype=torch.bool)

    def verify(self, weight: Tensor) -> Verdict:
        return Verdict(self.spec, 0, (), weight)

    def pack(self, weight: Tensor) -> DensePacked:
        return DensePacked.pack(weight)

    def freedom(self, shape: Shape) -> float:
        return 0.0

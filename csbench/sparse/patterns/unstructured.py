"""unstructured: the largest weights of a layer, wherever they are."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from csbench.core.pattern import PatternSpec
from csbench.sparse.formats import CsrPacked
from csbench.sparse.layout import Shape
from csbench.sparse.patterns.base import About, Pattern, Verdict, kept, log2_choose


class Unstructured(Pattern):
    """Single weights by magnitude, ranked within the layer."""

    about = About("", "any", "the largest weights of the layer by |w|", "unstructured@0.9")

    def mask(self, weight: Tensor, sparsity: float | None = None) -> Tensor:
        spec = self.target(weight, sparsity)
        count = kept(weight.numel(), spec.sparsity or 0.0)
        largest = weight.abs().flatten().topk(count, sorted=False).indices
        mask = torch.zeros_like(weight, dtype=torch.bool).flatten()
        mask[largest] = True
        return mask.reshape(weight.shape)

    def verify(self, weight: Tensor) -> Verdict:
        """Too many nonzeros break the pattern; without a sparsity any weight keeps it."""
        allowed = weight.numel()
        if self.spec.sparsity is not None:
            allowed = kept(weight.numel(), self.spec.sparsity)
        if int(weight.count_nonzero()) <= allowed:
            return Verdict(self.spec, 0, (), weight)
        return super().verify(weight)

    def pack(self, weight: Tensor) -> CsrPacked:
        return CsrPacked.pack(weight)

    def freedom(self, shape: Shape) -> float:
        return log2_choose(math.prod(shape), self.kept_units(shape))

    def kept_units(self, shape: Shape) -> int:
        return kept(math.prod(shape), self.spec.sparsity or 0.0)

    @classmethod
    def holding(cls, nonzero: Tensor) -> list[PatternSpec]:
        """The specification that this support (bool OIHW) keeps: always one."""
        zeros = 1 - int(nonzero.count_nonzero()) / nonzero.numel()
        return [PatternSpec("unstructured", (), zeros)] if zeros < 1 else []

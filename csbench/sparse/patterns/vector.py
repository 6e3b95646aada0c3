"""ovw:V and shfl-bw:V: V output channels, after a permutation of rows, share the columns they keep.

A column is one input channel at one tap. The two differ by the search for the permutation; from
the weight alone they cannot be told apart.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from csbench.core.pattern import PatternSpec
from csbench.errors import PatternError
from csbench.sparse.formats import VectorPacked
from csbench.sparse.layout import Shape, as_matrix, ceil_div, from_matrix, shape_of
from csbench.sparse.patterns import rows, support
from csbench.sparse.patterns.base import EXPLAINED, About, Pattern, Verdict, kept, log2_choose

SIZES = (64, 32, 16, 8, 4)  # V that detection tries


class Vector(Pattern):
    """V x 1 vectors by their sum of |w|; every group of V rows keeps the same number of columns."""

    @property
    def v(self) -> int:
        return self.spec.parameters[0] if self.spec.parameters else 32

    def group(self, importance: Tensor, n: int) -> Tensor:
        """The search: a group for every row of |w| [Cout, columns], of which n are to be kept."""
        raise NotImplementedError

    def why_not(self, shape: Shape) -> str | None:
        if shape[0] < self.v:
            return f"{shape[0]} output channels are fewer than the {self.v} of a vector"
        return None if math.prod(shape[1:]) > 1 else "a row is a single weight"

    def mask(self, weight: Tensor, sparsity: float | None = None) -> Tensor:
        spec = self.target(weight, sparsity)
        importance = as_matrix(weight.detach()).abs().float()
        n = kept(importance.shape[1], spec.sparsity or 0.0)
        if n == importance.shape[1]:
            return torch.ones_like(weight, dtype=torch.bool)
        group = self.group(importance, n)
        keep = rows.kept_columns(importance, group, n)[group]
        return from_matrix(keep, shape_of(weight)).reshape(weight.shape)

    def verify(self, weight: Tensor) -> Verdict:
        """From the weight alone: rows of equal support are gathered into groups of V again."""
        reason = self.why_not(shape_of(weight))
        if reason is not None:
            raise PatternError(f"pattern '{self.spec}' does not fit {list(weight.shape)}: {reason}")
        n = self._columns(weight)
        broken = support.recover(as_matrix(weight) != 0, self.v, n).broken
        broken = from_matrix(broken, shape_of(weight)).reshape(weight.shape)
        if broken.any():  # rows that fit into no group: the best mask may lose less of them
            columns = math.prod(shape_of(weight)[1:])
            outside = (weight != 0) & ~self.mask(weight, 1 - n / columns)
            broken = min(broken, outside, key=lambda b: int(b.count_nonzero()))
        return self.verdict(weight, broken)

    def pack(self, weight: Tensor) -> VectorPacked:
        verdict = self.verify(weight)
        if not verdict.ok:
            raise PatternError(verdict.describe())
        rows_of = support.recover(as_matrix(weight) != 0, self.v, self._columns(weight))
        return VectorPacked.pack(weight, self.v, rows_of.permutation)

    def _columns(self, weight: Tensor) -> int:
        """How many columns a group keeps: by the sparsity, or as most rows do."""
        if self.spec.sparsity is None:
            return support.usual_count(as_matrix(weight) != 0)
        return kept(math.prod(shape_of(weight)[1:]), self.spec.sparsity)

    def padding(self, shape: Shape) -> int:
        return -shape[0] % self.v * math.prod(shape[1:])

    def freedom(self, shape: Shape) -> float:
        columns = math.prod(shape[1:])
        groups = ceil_div(shape[0], self.v)
        choices = groups * log2_choose(columns, self.kept_units(shape))
        # Ways to sort the rows into groups of V, the order of groups and of rows inside left out.
        nats = (
            math.lgamma(shape[0] + 1) - groups * math.lgamma(self.v + 1) - math.lgamma(groups + 1)
        )
        return choices + max(0.0, nats / math.log(2))

    def kept_units(self, shape: Shape) -> int:
        return kept(math.prod(shape[1:]), self.spec.sparsity or 0.0)

    @classmethod
    def holding(cls, nonzero: Tensor) -> list[PatternSpec]:
        """The V that explain the zeros of this support (bool OIHW), with their sparsity."""
        matrix = as_matrix(nonzero)
        name = "ovw" if cls is OVW else "shfl-bw"
        zeros = 1 - int(matrix.count_nonzero()) / matrix.numel()
        n = support.usual_count(matrix)
        columns = matrix.shape[1]
        if n == columns or 1 - n / columns < EXPLAINED * zeros:
            return []
        alike = torch.bincount(support.classes(matrix))
        found = []
        for v in SIZES:
            # Chance zeros make a few rows of a group differ; where most rows do, V is wrong.
            if 2 * int(alike[2 * alike > v].sum()) < matrix.shape[0] or v > matrix.shape[0]:
                continue
            if not support.recover(matrix, v, n).broken.any():
                found.append(PatternSpec(name, (v,), 1 - n / columns))
        return found


class OVW(Vector):
    """Rows gathered by balanced clustering (Tan et al., NeurIPS 2022)."""

    about = About(
        "V output channels (default 32)", "any",
        "V x 1 vectors of largest norm, rows gathered by balanced clustering", "ovw:32@0.75",
    )  # fmt: skip

    def group(self, importance: Tensor, n: int) -> Tensor:
        return rows.cluster(importance, self.v, n)


class ShflBW(Vector):
    """Rows gathered by the overlap of their unstructured masks (Shfl-BW, DAC 2022)."""

    about = About(
        "V output channels (default 32)", "any",
        "V x 1 vectors of largest norm, rows shuffled by the Shfl-BW heuristic", "shfl-bw:32@0.75",
    )  # fmt: skip

    def group(self, importance: Tensor, n: int) -> Tensor:
        return rows.shuffle(importance, self.v, n)

"""What nm and cs share: N weights kept of every group of M input channels at one tap."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from csbench.core.pattern import BY_SPARSITY_M, PatternSpec
from csbench.sparse.formats import GroupPacked
from csbench.sparse.layout import Shape, from_groups, group_geometry, shape_of, to_groups
from csbench.sparse.patterns.base import EXPLAINED, Pattern, Verdict, log2_choose

PROBE_ROWS = 8  # output channels looked at first: most wrong groupings fail there


class Grouped(Pattern):
    """N of M by magnitude, where the subclass's specification says which channels are a group."""

    def why_not(self, shape: Shape) -> str | None:
        if not self.spec.parameters:
            return None  # the sparsity decides M, and with it what can be divided
        _, m, span = group_geometry(self.spec, shape[1])
        if shape[1] % m:
            return f"{m} does not divide {shape[1]} input channels"
        if shape[1] % span:
            return f"the span of {span} does not divide {shape[1]} input channels"
        return f"groups of {m} are above 256" if m > 256 else None

    def mask(self, weight: Tensor, sparsity: float | None = None) -> Tensor:
        spec = self.target(weight, sparsity)
        shape = shape_of(weight)
        n, m, span = group_geometry(spec, shape[1])
        if n == m:
            return torch.ones_like(weight, dtype=torch.bool)
        groups = to_groups(weight.detach(), m, span).abs()
        if n == 1:
            chosen = groups.argmax(3, keepdim=True)
        else:
            chosen = groups.topk(n, dim=3, sorted=False).indices
        keep = torch.zeros_like(groups, dtype=torch.bool).scatter_(3, chosen, True)
        return from_groups(keep, shape, span).reshape(weight.shape)

    def verify(self, weight: Tensor) -> Verdict:
        """Without parameters, against the tightest of this family that holds, or is nearest."""
        if not self.spec.parameters and self.spec.sparsity is None:
            return type(self)(self._inferred(weight)).verify(weight)
        return super().verify(weight)

    def _inferred(self, weight: Tensor) -> PatternSpec:
        shape = shape_of(weight)
        nonzero = weight.reshape(shape) != 0
        fitting = [s for s in self.holding(nonzero) if s.name == self.spec.name]
        if fitting:
            return min(fitting, key=lambda s: type(self)(s).freedom(shape))
        density = max(1, int(nonzero.count_nonzero())) / nonzero.numel()
        possible = [
            sparsity
            for sparsity, m in BY_SPARSITY_M.items()
            if m * density <= 1.05 and shape[1] % m == 0
        ]
        return PatternSpec(self.spec.name).at(max(possible, default=0.0))

    def pack(self, weight: Tensor) -> GroupPacked:
        spec = self.spec
        if not spec.parameters:
            spec = self._inferred(weight) if spec.sparsity is None else spec.at(spec.sparsity)
        return GroupPacked.pack(weight, spec)

    def freedom(self, shape: Shape) -> float:
        n, m, _ = group_geometry(self.spec, shape[1])
        return math.prod(shape) / m * log2_choose(m, n)

    @classmethod
    def holding(cls, nonzero: Tensor) -> list[PatternSpec]:
        """The specifications of this family that explain the zeros of a support (bool OIHW)."""
        raise NotImplementedError


def most_in_a_group(nonzero: Tensor, m: int, span: int) -> int:
    """The largest number of nonzeros in any group; a few rows are looked at first."""

    def most(part: Tensor) -> int:
        return int(to_groups(part, m, span).sum(3, dtype=torch.uint8).max())

    # Channels in the order of the probe alone already reach M for nearly every wrong grouping.
    probe = most(nonzero[:PROBE_ROWS])
    return probe if probe == m else most(nonzero)


def explains(density: float, n: int, m: int) -> bool:
    """Whether N of M accounts for most of the zeros of a weight with this share of nonzeros."""
    return n < m and 1 - n / m >= EXPLAINED * (1 - density)


def group_sizes(shape: Shape, density: float) -> Iterator[int]:
    """The M that divide Cin and could, with N = 1, be neither too dense nor too sparse."""
    for m in range(2, min(shape[1], 32) + 1):
        if shape[1] % m == 0 and density * m <= 1 + 1e-9 and explains(density, 1, m):
            yield m

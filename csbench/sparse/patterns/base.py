"""What a sparsity pattern is: which weights it keeps, whether a weight obeys it, how it packs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from torch import Tensor

from csbench.core.pattern import PatternSpec
from csbench.errors import PatternError
from csbench.sparse.formats import Packed
from csbench.sparse.layout import Shape, shape_of

SHOWN = 5  # coordinates listed with a broken weight
EXPLAINED = 0.9  # share of the zeros that a pattern must account for; the rest is chance


@dataclass(frozen=True)
class About:
    """A pattern in words, for `csbench patterns`."""

    parameters: str
    sparsities: str
    keeps: str
    example: str


@dataclass(frozen=True, eq=False)
class Verdict:
    """Whether a weight keeps a pattern: how many nonzeros break it, and where the first ones are.

    `first` are coordinates in the weight's own axes, (o, i, r, s) or (out, in).
    """

    spec: PatternSpec
    violations: int
    first: tuple[tuple[int, ...], ...]
    weight: Tensor = field(repr=False)

    @property
    def ok(self) -> bool:
        return self.violations == 0

    @cached_property
    def tightest(self) -> PatternSpec:
        """The most restrictive built-in pattern that does hold."""
        from csbench.sparse.patterns.detect import tightest  # it knows every family: a cycle

        return tightest(self.weight)

    def describe(self) -> str:
        """`12 weights break cs:4, first at [0, 3, 1, 1], [0, 7, 1, 1]; what holds is nm:2:4`."""
        where = ", ".join(str(list(at)) for at in self.first[:3])
        noun = "weight breaks" if self.violations == 1 else "weights break"
        return (
            f"{self.violations} {noun} {self.spec}, first at {where}; what holds is {self.tightest}"
        )


class Pattern(ABC):
    """One pattern with its parameters. Subclass it, and name the class in an entry point of group
    `csbench.patterns`, to add a pattern: `mask` and `pack` are needed, the rest has defaults.
    """

    about: ClassVar[About]

    def __init__(self, spec: PatternSpec) -> None:
        self.spec = spec

    def why_not(self, shape: Shape) -> str | None:
        """The reason why a weight of this OIHW shape cannot carry the pattern; None when it can."""
        return None

    @abstractmethod
    def mask(self, weight: Tensor, sparsity: float | None = None) -> Tensor:
        """Which weights are kept, by magnitude: bool in the weight's shape.

        `sparsity` is a fraction, by default the specification's. Raises PatternError where the
        pattern cannot give it, or cannot divide the weight.
        """

    @abstractmethod
    def pack(self, weight: Tensor) -> Packed:
        """The weight without its zeros; raises PatternError when it does not keep the pattern."""

    def verify(self, weight: Tensor) -> Verdict:
        """The nonzeros outside the best mask that the pattern allows."""
        return self.verdict(weight, (weight != 0) & ~self.mask(weight))

    def padding(self, shape: Shape) -> int:
        """How many weights the packed grid adds to this shape, were every unit kept."""
        return 0

    def kept_units(self, shape: Shape) -> int:
        """How many units a row of this shape keeps (of the whole layer where it has no rows)."""
        return 0

    def freedom(self, shape: Shape) -> float:
        """log2 of how many masks the pattern allows on this shape, at its own sparsity.

        Of two patterns that hold, the one with less freedom says more about the weight.
        """
        return math.inf

    def target(self, weight: Tensor, sparsity: float | None) -> PatternSpec:
        """The specification with every parameter filled in, for a weight that it can divide."""
        wanted = self.spec.own_sparsity if sparsity is None else sparsity
        if wanted is None:
            raise PatternError(
                f"pattern '{self.spec}' needs a sparsity; type for example {self.spec}@75%"
            )
        spec = self.spec.at(wanted)
        reason = type(self)(spec).why_not(shape_of(weight))
        if reason is not None:
            raise PatternError(f"pattern '{spec}' does not fit {list(weight.shape)}: {reason}")
        return spec

    def verdict(self, weight: Tensor, broken: Tensor, spec: PatternSpec | None = None) -> Verdict:
        """The verdict on a weight whose nonzeros at `broken` (bool, its shape) are outside."""
        violations = int(broken.count_nonzero())
        first = tuple(tuple(at) for at in _first(broken, SHOWN)) if violations else ()
        return Verdict(spec or self.spec, violations, first, weight)


def kept(units: int, sparsity: float) -> int:
    """How many of `units` alike are kept at this sparsity: the nearest number, at least one."""
    return max(1, math.floor((1 - sparsity) * units + 0.5))


def log2_choose(total: int, chosen: int) -> float:
    """log2 of the number of ways to choose."""
    return (
        math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)
    ) / math.log(2)


def _first(broken: Tensor, count: int) -> list[list[int]]:
    """Coordinates of the first true entries; only the rows that hold them are searched."""
    rows = broken.flatten(1).any(1).nonzero()[:count, 0] if broken.ndim > 1 else None
    if rows is None:
        return broken.nonzero()[:count].tolist()
    found = [[int(row), *at] for row in rows for at in broken[row].nonzero()[:count].tolist()]
    return found[:count]

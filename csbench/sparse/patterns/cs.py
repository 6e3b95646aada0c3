"""cs:M, Complementary Sparsity (Zhao et al., TMLR 2023): one of M weights spaced Cin/M apart.

Numenta's method of the same name is another one. In OIHW order with M dividing Cin, "spaced by
K / M in the flattened row" and "spaced Cin / M channels at the same tap" are the same set.
"""

from __future__ import annotations

from torch import Tensor

from csbench.core.pattern import PatternSpec
from csbench.sparse.layout import shape_of
from csbench.sparse.patterns.base import About
from csbench.sparse.patterns.groups import Grouped, group_sizes, most_in_a_group


class CS(Grouped):
    """One of the M weights of an output channel and tap that lie Cin/M (or S/M) channels apart."""

    about = About(
        "M, or M : S to repeat the group every S channels (S = M is 1:M)",
        "1 - 1/M: 50, 75, 87.5, 93.75 % for M = 2, 4, 8, 16",
        "the largest of M weights spaced Cin/M input channels apart at one tap", "cs:4",
    )  # fmt: skip

    @classmethod
    def holding(cls, nonzero: Tensor) -> list[PatternSpec]:
        """cs:M and cs:M:S that explain the zeros of this support (bool OIHW)."""
        shape = shape_of(nonzero)
        density = int(nonzero.count_nonzero()) / nonzero.numel()
        found = []
        for m in group_sizes(shape, density):
            if most_in_a_group(nonzero, m, shape[1]) <= 1:
                found.append(PatternSpec("cs", (m,)))
            for span in _spans(m, shape[1]):
                if most_in_a_group(nonzero, m, span) <= 1:
                    found.append(PatternSpec("cs", (m, span)))
        return found


def _spans(m: int, cin: int) -> list[int]:
    """M times a power of two, up to Cin; the shortest, S = M, is left to nm:1:M."""
    spans = (m << shift for shift in range(1, cin.bit_length()))
    return [span for span in spans if span <= cin and cin % span == 0]

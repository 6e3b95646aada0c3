"""nm:N:M: N of every M consecutive input channels at one tap, as hardware groups them."""

from __future__ import annotations

from torch import Tensor

from csbench.core.pattern import PatternSpec
from csbench.sparse.layout import shape_of
from csbench.sparse.patterns.base import About
from csbench.sparse.patterns.groups import Grouped, explains, group_sizes, most_in_a_group


class NM(Grouped):
    """N of M neighbours along the input channels."""

    about = About(
        "N : M (default by sparsity: 2:4, 1:4, 1:8, 1:16)", "1 - N/M",
        "the N largest of M consecutive input channels at one tap", "nm:2:4",
    )  # fmt: skip

    @classmethod
    def holding(cls, nonzero: Tensor) -> list[PatternSpec]:
        """N:M for M up to 32 that explain the zeros of this support (bool OIHW)."""
        shape = shape_of(nonzero)
        density = int(nonzero.count_nonzero()) / nonzero.numel()
        found = []
        sizes = {*group_sizes(shape, density), *(m for m in (4, 8, 16, 32) if shape[1] % m == 0)}
        for m in sorted(sizes):
            if not explains(density, 1, m):
                continue
            n = max(1, most_in_a_group(nonzero, m, m))
            if explains(density, n, m):
                found.append(PatternSpec("nm", (n, m)))
        return found

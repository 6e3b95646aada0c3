"""`nm`: N of M neighbours by the kernels of `cs`, which run whatever fits sparse tensor cores."""

from __future__ import annotations

from csbench.backends.base import LoweredConv, LoweredNetwork
from csbench.backends.cs import gpu
from csbench.core.case import DTYPES, Case
from csbench.graph.program import Conv, Program


class Nm:
    """1:M for every M, and what keeps at most two of any four neighbours (2:4, 2:8, 2:16).

    Patterns beyond that (4:8, 3:4) do not fit sparse tensor cores; `why_not` says so.
    """

    name = "nm"
    patterns = frozenset({"nm"})
    devices = frozenset({"cuda"})
    dtypes = frozenset(DTYPES)

    def missing(self, device: str) -> str | None:
        return gpu.missing()

    def why_not(self, conv: Conv, case: Case) -> str | None:
        return gpu.why_not(conv, case)

    def lower(self, conv: Conv, case: Case) -> LoweredConv:
        return gpu.lower(conv, case)

    def lower_network(self, program: Program, case: Case) -> LoweredNetwork | None:
        return gpu.lower_network(program, case)

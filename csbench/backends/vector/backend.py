"""`ovw`, `shfl-bw`, `block-vectors`: V output channels that keep the same columns, by gathered
channels on tensor cores."""

from __future__ import annotations

from csbench.backends.base import LoweredConv, LoweredNetwork
from csbench.backends.vector import gpu
from csbench.core.case import DTYPES, Case
from csbench.graph.program import Conv, Program


class Ovw:
    """V output channels share the columns that they keep; CUDA C++ on a Hopper GPU."""

    name = "ovw"
    patterns = frozenset({"ovw"})
    devices = frozenset({"cuda"})
    dtypes = frozenset(DTYPES)

    def missing(self, device: str) -> str | None:
        return gpu.missing()

    def why_not(self, conv: Conv, case: Case) -> str | None:
        return gpu.why_not(conv, case)

    def lower(self, conv: Conv, case: Case) -> LoweredConv:
        return gpu.lower(conv, case)

    def lower_network(self, program: Program, case: Case, *, sparse: bool = True) -> LoweredNetwork:
        """The whole network; without `sparse` every layer dense on the same kernels."""
        return gpu.lower_network(program, case, sparse=sparse)


class ShflBw(Ovw):
    """The same kernels: the two patterns differ in how rows are sought that belong together."""

    name = "shfl-bw"
    patterns = frozenset({"shfl-bw"})


class BlockVectors(Ovw):
    """The same kernels for blocks of V x C: their rows are vectors, whose kept columns come in
    runs of C."""

    name = "block-vectors"
    patterns = frozenset({"block"})

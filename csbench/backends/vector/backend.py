"""`ovw` and `shfl-bw`: vectors of V output channels, by gathered channels on tensor cores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from csbench.backends.base import LoweredConv, LoweredNetwork
from csbench.core.case import DTYPES, Case
from csbench.graph.program import Conv, Program

if TYPE_CHECKING:
    from types import ModuleType


class Ovw:
    """V output channels share the columns that they keep; CUDA C++ on a Hopper GPU."""

    name = "ovw"
    patterns = frozenset({"ovw"})
    devices = frozenset({"cuda"})
    dtypes = frozenset(DTYPES)

    def missing(self, device: str) -> str | None:
        problem: str | None = _gpu().missing()
        return problem

    def why_not(self, conv: Conv, case: Case) -> str | None:
        reason: str | None = _gpu().why_not(conv, case)
        return reason

    def lower(self, conv: Conv, case: Case) -> LoweredConv:
        lowered: LoweredConv = _gpu().lower(conv, case)
        return lowered

    def lower_network(self, program: Program, case: Case, *, sparse: bool = True) -> LoweredNetwork:
        """The whole network; without `sparse` every layer dense on the same kernels."""
        network: LoweredNetwork = _gpu().lower_network(program, case, sparse=sparse)
        return network


class ShflBw(Ovw):
    """The same kernels: the two patterns differ in how rows are sought that belong together."""

    name = "shfl-bw"
    patterns = frozenset({"shfl-bw"})


def _gpu() -> ModuleType:
    from csbench.backends.vector import gpu

    return gpu

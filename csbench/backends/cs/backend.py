"""`cs`: Complementary Sparsity (Zhao et al., TMLR 2023) by kernels of csbench's own."""

from __future__ import annotations

from types import ModuleType
from typing import ClassVar

from csbench.backends.base import LoweredConv, LoweredNetwork
from csbench.core.case import DTYPES, Case
from csbench.graph.program import Conv, Program


class Cs:
    """One weight of each group of M is kept; compiled C++ on a CPU, CUDA C++ on a GPU."""

    name = "cs"
    patterns = frozenset({"cs"})
    devices = frozenset({"cpu", "cuda"})
    dtypes = frozenset(DTYPES)
    device_dtypes: ClassVar = {"cpu": frozenset({"fp32"})}

    def missing(self, device: str) -> str | None:
        problem: str | None = _kernels(device).missing()
        return problem

    def why_not(self, conv: Conv, case: Case) -> str | None:
        reason: str | None = _kernels(case.device).why_not(conv, case)
        return reason

    def lower(self, conv: Conv, case: Case) -> LoweredConv:
        lowered: LoweredConv = _kernels(case.device).lower(conv, case)
        return lowered

    def lower_network(self, program: Program, case: Case) -> LoweredNetwork | None:
        """The GPU's own path for a whole network; the CPU goes convolution by convolution."""
        if case.device.partition(":")[0] == "cpu":
            return None
        network: LoweredNetwork | None = _kernels(case.device).lower_network(program, case)
        return network


def _kernels(device: str) -> ModuleType:
    if device.partition(":")[0] == "cpu":
        from csbench.backends.cs import cpu as cpu_cs

        return cpu_cs
    from csbench.backends.cs import gpu as gpu_cs

    return gpu_cs

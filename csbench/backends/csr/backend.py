"""`csr`: single weights kept anywhere, whatever their pattern, by kernels of csbench's own."""

from __future__ import annotations

from types import ModuleType
from typing import ClassVar

from csbench.backends.base import LoweredConv, LoweredNetwork
from csbench.core.case import DTYPES, Case
from csbench.graph.program import Conv, Program


class Csr:
    """Lists of kept weights for every output channel; compiled C++ on a CPU, CUDA C++ on a GPU.

    It takes any zeros, so it also runs patterns that other backends are made for. tf32 runs as
    fp32: CUDA cores have nothing between.
    """

    name = "csr"
    patterns = frozenset({"unstructured", "nm", "cs", "ovw", "shfl-bw"})
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
        """On a GPU activations keep one form throughout; on a CPU layer by layer."""
        if case.device.partition(":")[0] == "cpu":
            return None
        from csbench.backends.csr import network

        return network.lower_network(program, case)


def _kernels(device: str) -> ModuleType:
    if device.partition(":")[0] == "cpu":
        from csbench.backends.csr import cpu as cpu_csr

        return cpu_csr
    from csbench.backends.csr import gpu as gpu_csr

    return gpu_csr

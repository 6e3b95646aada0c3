"""`block-original`: block-sparse convolution by kernels of csbench's own, on CPUs and on GPUs."""

from __future__ import annotations

from types import ModuleType
from typing import ClassVar

from csbench.backends.base import LoweredConv, LoweredNetwork
from csbench.core.case import DTYPES, Case
from csbench.graph.program import Conv, Program


class BlockOriginal:
    """Blocks of R x C at one tap; compiled C++ on a CPU, CUDA C++ on a GPU."""

    name = "block-original"
    patterns = frozenset({"block"})
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
        """On a GPU every layer's tile is chosen inside the network; on a CPU layer by layer."""
        if case.device.partition(":")[0] == "cpu":
            return None
        from csbench.backends.block import gpu as gpu_block

        return gpu_block.lower_network(program, case)


def _kernels(device: str) -> ModuleType:
    if device.partition(":")[0] == "cpu":
        from csbench.backends.block import cpu as cpu_block

        return cpu_block
    from csbench.backends.block import gpu as gpu_block

    return gpu_block

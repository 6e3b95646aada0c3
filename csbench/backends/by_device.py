"""A backend whose kernels for each kind of device are a module of their own."""

from __future__ import annotations

from typing import ClassVar, Protocol

from csbench.backends.base import LoweredConv, LoweredNetwork
from csbench.core.case import DTYPES, Case
from csbench.graph.program import Conv, Program


class Kernels(Protocol):
    """What a module of kernels has: a backend's methods, for its own device."""

    def missing(self) -> str | None: ...
    def why_not(self, conv: Conv, case: Case) -> str | None: ...
    def lower(self, conv: Conv, case: Case) -> LoweredConv: ...


class NetworkKernels(Kernels, Protocol):
    """What a module has whose kernels also take a whole network."""

    def lower_network(self, program: Program, case: Case) -> LoweredNetwork | None: ...


class ByDevice:
    """Compiled C++ on a CPU, in fp32 and layer by layer; CUDA C++ on a GPU, whole networks too."""

    devices = frozenset({"cpu", "cuda"})
    dtypes = frozenset(DTYPES)
    device_dtypes: ClassVar = {"cpu": frozenset({"fp32"})}
    on_cpu: Kernels
    on_gpu: NetworkKernels

    def missing(self, device: str) -> str | None:
        return self._kernels(device).missing()

    def why_not(self, conv: Conv, case: Case) -> str | None:
        return self._kernels(case.device).why_not(conv, case)

    def lower(self, conv: Conv, case: Case) -> LoweredConv:
        return self._kernels(case.device).lower(conv, case)

    def lower_network(self, program: Program, case: Case) -> LoweredNetwork | None:
        """None on a CPU: it goes layer by layer there."""
        return None if _is_cpu(case.device) else self.on_gpu.lower_network(program, case)

    def _kernels(self, device: str) -> Kernels:
        return self.on_cpu if _is_cpu(device) else self.on_gpu


def _is_cpu(device: str) -> bool:
    return device.partition(":")[0] == "cpu"

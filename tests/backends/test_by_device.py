"""Every method of such a backend goes to the kernels of the device that is asked about."""

from __future__ import annotations

import pytest

from csbench.backends.base import LoweredConv, LoweredNetwork
from csbench.backends.by_device import ByDevice
from csbench.core.case import Case
from csbench.graph.program import Conv, Program
from tests.backends.cases import case, conv


class Kernels:
    """Says its name wherever it is asked."""

    def __init__(self, name: str) -> None:
        self.name = name

    def missing(self) -> str | None:
        return self.name

    def why_not(self, conv: Conv, case: Case) -> str | None:
        return self.name

    def lower(self, conv: Conv, case: Case) -> LoweredConv:
        return LoweredConv(lambda x: x, algorithm=self.name)

    def lower_network(self, program: Program, case: Case) -> LoweredNetwork | None:
        return LoweredNetwork(lambda x: x, ())


class Both(ByDevice):
    on_cpu, on_gpu = Kernels("cpu"), Kernels("gpu")


@pytest.mark.parametrize(("device", "name"), [("cpu", "cpu"), ("cuda", "gpu"), ("cuda:1", "gpu")])
def test_each_device_has_its_kernels(device: str, name: str) -> None:
    asked = case(device=device)
    assert Both().missing(device) == name
    assert Both().why_not(conv(), asked) == name
    assert Both().lower(conv(), asked).algorithm == name
    network = Both().lower_network(Program("empty", (3, 8, 8), (), 0), asked)
    assert (network is None) == (name == "cpu")

"""`cs-dense`: the dense network by the kernels of `cs`, which get the same layouts and splits."""

from __future__ import annotations

import dataclasses

from csbench.backends.base import LoweredConv, LoweredNetwork
from csbench.backends.cs import gpu
from csbench.core.case import DTYPES, Case
from csbench.graph.attach import attach
from csbench.graph.program import Conv, Program


class CsDense:
    """The dense twin of `cs` on a GPU: what is left of a speed-up over it is due to sparsity.

    A layer without a pattern runs dense on those kernels; so this backend takes patterns away.
    """

    name = "cs-dense"
    patterns = frozenset({"dense"})
    devices = frozenset({"cuda"})
    dtypes = frozenset(DTYPES)

    def missing(self, device: str) -> str | None:
        return gpu.missing()

    def why_not(self, conv: Conv, case: Case) -> str | None:
        return gpu.why_not(_dense(conv), case)

    def lower(self, conv: Conv, case: Case) -> LoweredConv:
        return gpu.lower(_dense(conv), case)

    def lower_network(self, program: Program, case: Case) -> LoweredNetwork | None:
        """The whole network as `cs` runs it; None where its kernels do not take all of it."""
        return gpu.lower_network(attach(program, {}), case)


def _dense(conv: Conv) -> Conv:
    return dataclasses.replace(conv, pattern=None)

"""The whole tool without a GPU, a compiler or a kernel: every layer is the float64 reference.

With a scripted clock it makes sampling, records and tables testable; its times mean nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from csbench.backends.base import LoweredConv
from csbench.core.case import DTYPES, Case
from csbench.core.pattern import BUILT_IN
from csbench.graph import reference
from csbench.graph.program import Conv


class Fake:
    """Computes each convolution as the reference does and returns it in the input's precision."""

    name = "fake"
    patterns = frozenset(BUILT_IN)
    devices = frozenset({"cpu", "cuda"})
    dtypes = frozenset(DTYPES)

    def missing(self, device: str) -> str | None:
        if device.startswith("cuda") and not torch.cuda.is_available():
            return "no CUDA device"
        return None

    def why_not(self, conv: Conv, case: Case) -> str | None:
        return None

    def lower(self, conv: Conv, case: Case) -> LoweredConv:
        def run(x: Tensor, residual: Tensor | None = None) -> Tensor:
            return reference.convolution(conv, x, residual).to(x.device, x.dtype)

        nonzero = int(conv.weight.count_nonzero())
        return LoweredConv(run, weight_bytes=4 * nonzero, algorithm="float64 reference")

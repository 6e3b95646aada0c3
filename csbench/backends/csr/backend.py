"""`csr`: single weights kept anywhere, whatever their pattern, by kernels of csbench's own."""

from __future__ import annotations

from csbench.backends.by_device import ByDevice
from csbench.backends.csr import cpu, network


class Csr(ByDevice):
    """Lists of kept weights for every output channel.

    It takes any zeros, so it also runs patterns that other backends are made for. tf32 runs as
    fp32: CUDA cores have nothing between.
    """

    name = "csr"
    patterns = frozenset({"unstructured", "block", "nm", "cs", "ovw", "shfl-bw"})
    on_cpu, on_gpu = cpu, network

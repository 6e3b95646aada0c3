"""`cs`: Complementary Sparsity (Zhao et al., TMLR 2023) by kernels of csbench's own."""

from __future__ import annotations

from csbench.backends.by_device import ByDevice
from csbench.backends.cs import cpu, gpu


class Cs(ByDevice):
    """One weight of each group of M is kept."""

    name = "cs"
    patterns = frozenset({"cs"})
    on_cpu, on_gpu = cpu, gpu

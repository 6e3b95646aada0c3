"""`block-original`: block-sparse convolution by kernels of csbench's own, on CPUs and on GPUs."""

from __future__ import annotations

from csbench.backends.block import cpu, gpu
from csbench.backends.by_device import ByDevice


class BlockOriginal(ByDevice):
    """Blocks of R x C at one tap; on a GPU every layer's tile is chosen inside the network."""

    name = "block-original"
    patterns = frozenset({"block"})
    on_cpu, on_gpu = cpu, gpu

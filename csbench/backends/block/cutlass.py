"""`block-cutlass`: block-sparse convolution on CUTLASS, for Hopper GPUs."""

from __future__ import annotations

import torch

from csbench.backends.base import LoweredConv, LoweredNetwork
from csbench.backends.block import cutlass_layer, measured, network
from csbench.backends.block.cutlass_layer import CutlassLayer
from csbench.core.case import DTYPES, Case
from csbench.graph.program import Conv, Program
from csbench.kernels.cutlass import nvcc


class BlockCutlass:
    """Blocks of R x C at one tap: CUDA cores in fp32, tensor cores in the other precisions."""

    name = "block-cutlass"
    patterns = frozenset({"block"})
    devices = frozenset({"cuda"})
    dtypes = frozenset(DTYPES)

    def missing(self, device: str) -> str | None:
        if not torch.cuda.is_available():
            hopper = "these kernels are for Hopper GPUs (H100, H200)"
            return f"no CUDA device; {hopper}; on a CPU the pattern runs by block-original"
        if torch.cuda.get_device_capability()[0] != 9:
            return (
                "its kernels need a Hopper GPU (compute capability 9.0); this is "
                f"{torch.cuda.get_device_name()}, where the pattern runs by block-original"
            )
        return nvcc.missing()

    def why_not(self, conv: Conv, case: Case) -> str | None:
        return cutlass_layer.why_not(conv, case)

    def lower(self, conv: Conv, case: Case) -> LoweredConv:
        return measured.lower(conv, case, CutlassLayer)

    def lower_network(self, program: Program, case: Case) -> LoweredNetwork:
        """Every layer's tile is chosen inside the network."""
        return network.lower_network(program, case, CutlassLayer)

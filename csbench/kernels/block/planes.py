"""From the form of wgmma's kernels, two planes of halves, to what the block kernels read."""

from __future__ import annotations

import torch
from torch import Tensor

from csbench.kernels import nvrtc

SOURCE = "block/planes.cu"
CHANNELS = 64  # of which a packed activation holds whole multiples


def from_planes(packed: Tensor, scale: float) -> Tensor:
    """[N, H, W, 2 * C] halves of numbers times `scale` to float32 [N, C, H, W], channels last.

    C is a multiple of CHANNELS: no channel of `packed` is padding.
    """
    n, h, w, twice = packed.shape
    y = torch.empty(n, h, w, twice // 2, device=packed.device)
    pieces = y.numel() // 8
    nvrtc.load(SOURCE).kernel("from_planes").launch(
        -(-pieces // 256), 256, [packed, y, 1.0 / scale, pieces], overlap=True
    )
    return y.permute(0, 3, 1, 2)

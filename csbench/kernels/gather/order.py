"""Orders in which a record holds the weights of a k-step: [records, 16 columns, rows of a unit]."""

from __future__ import annotations

import torch
from torch import Tensor

from csbench.kernels.gather.layout import EIGHT


def core_matrices(weights: Tensor) -> Tensor:
    """As bytes [records, ...]: 8 output channels x 8 columns lie together, two such matrices along
    the columns, then those of the next 8 output channels."""
    total, _, size = weights.shape
    ordered = weights.reshape(total, 2, EIGHT, size // EIGHT, EIGHT).permute(0, 3, 1, 4, 2)
    return ordered.contiguous().view(torch.uint8).reshape(total, -1)


def fragments(weights: Tensor) -> Tensor:
    """As bytes [records, ...] in the order of mma's B fragments.

    Lane (g, t) holds of output channel g of an n8 tile the columns 2t, 2t + 1 and 2t + 8, 2t + 9;
    two n8 tiles lie together, so that a lane reads 16 bytes.
    """
    total, _, size = weights.shape
    pair = min(2, size // EIGHT)
    # [record, +8, t, pair of columns, n8 pair, n8 of the pair, g]
    shape = (total, 2, 4, 2, size // EIGHT // pair, pair, EIGHT)
    ordered = weights.reshape(shape).permute(0, 4, 6, 2, 5, 1, 3)
    return ordered.contiguous().view(torch.uint8).reshape(total, -1)

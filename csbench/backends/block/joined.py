"""Neighbouring blocks that are kept together, seen as one larger block: it is multiplied faster."""

from __future__ import annotations

import torch
from torch import Tensor

from csbench.sparse.layout import ceil_div, to_blocks


def largest(weight: Tensor, block: tuple[int, int], limit: tuple[int, int]) -> tuple[int, int]:
    """The largest multiples of a block shape (rows, channels) that keep no more than it does.

    Rows double while every pair of block rows keeps the same blocks, then channels while kept
    blocks come in pairs at a tap; neither passes `limit`. A dense weight joins as far as it goes.
    """
    rows, channels = block
    kernel = weight.shape[2:].numel()
    kept = (to_blocks(weight, *block) != 0).flatten(2).any(2)
    kept = kept.reshape(len(kept), kernel, ceil_div(weight.shape[1], channels))
    while 2 * rows <= limit[0] and (pairs := _pairs(kept, 0)) is not None:
        kept, rows = pairs, 2 * rows
    while 2 * channels <= limit[1] and (pairs := _pairs(kept, 2)) is not None:
        kept, channels = pairs, 2 * channels
    return rows, channels


def _pairs(kept: Tensor, dim: int) -> Tensor | None:
    """Every second one along an axis, where neighbours are equal; None where some are not."""
    if kept.shape[dim] % 2:
        return None
    first, second = (kept.index_select(dim, torch.arange(i, kept.shape[dim], 2)) for i in (0, 1))
    return first if torch.equal(first, second) else None

"""2:4 sparsity as sparse tensor cores take it: at most two of four neighbouring channels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def fits(weight: Tensor, kept: int = 2, of: int = 4) -> bool:
    """Whether at most `kept` of every `of` neighbouring input channels of OIHW are not zero."""
    cout, cin, kh, kw = weight.shape
    nonzero = pad(weight != 0, (0, 0, 0, 0, 0, -cin % of))
    return int(nonzero.view(cout, -1, of, kh, kw).sum(2).max()) <= kept


def refusal(pattern: str) -> str:
    """Why sparse tensor cores cannot take weights that do not fit, and what can."""
    return (
        f"sparse tensor cores take 2 of 4 neighbours; {pattern} keeps more of some, and runs by "
        "--backend csr"
    )


def positions(fours: Tensor) -> Tensor:
    """[..., 4] with at most two nonzeros -> [..., 2]: where the two kept stand, ascending.

    A single one takes a zero neighbour as its partner.
    """
    kept = fours != 0
    count = kept.sum(-1)
    first = kept.int().argmax(-1)
    last = 3 - kept.flip(-1).int().argmax(-1)
    alone = first.clamp_max(2)
    low = torch.where(count == 0, 0, torch.where(count == 1, alone, first))
    high = torch.where(count == 0, 1, torch.where(count == 1, alone + 1, last))
    return torch.stack([low, high], -1)

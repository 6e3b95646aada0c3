"""nm-argsort: SR-STE as its authors' code computes it, layer by layer with a sort.

The same training as `nm`, kept to be compared with: after Zhou et al., ICLR 2021
(aojunzz/NM-sparsity), rewritten.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from csbench.training.schemes.nm import NM


class NMArgsort(NM):
    """An autograd function for every layer sorts its groups in every forward pass.

    As in that code the decay is added in the backward pass, where fp16's loss scaling shrinks it.
    """

    name = "nm-argsort"

    def masked_weights(self) -> Sequence[Tensor]:
        n, m = self.layers.kept_of_group
        decay = self.recipe.decay
        return [_Sorted.apply(p, n, m, decay) for p in self.layers.parameters]  # type: ignore[no-untyped-call]

    def before_optimiser(self) -> None:
        """The decay is in the gradient already."""


class _Sorted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, n: int, m: int, decay: float) -> Tensor:
        by_tap = weight.detach().abs().permute(0, 2, 3, 1) if weight.ndim == 4 else weight.abs()
        smallest = torch.argsort(by_tap.reshape(-1, m), dim=1)[:, : m - n]
        mask = torch.ones(by_tap.numel() // m, m, device=weight.device)
        mask = mask.scatter_(1, smallest, 0).reshape(by_tap.shape)
        ctx.mask = mask.permute(0, 3, 1, 2) if weight.ndim == 4 else mask
        ctx.decay = decay
        ctx.save_for_backward(weight)
        masked: Tensor = weight.clone() * ctx.mask
        return masked

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (weight,) = ctx.saved_tensors
        return gradients[0] + ctx.decay * (1 - ctx.mask) * weight, None, None, None

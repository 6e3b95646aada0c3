"""nm: SR-STE (Zhou et al., ICLR 2021), the N largest of M chosen anew in every step.

The forward pass runs on the masked weights, the gradient goes straight through to the dense ones,
and the weights left out are decayed: dL/dW = g + 2e-4 (1 - mask) W. Masks, masked weights (already
in the precision of the forward pass, so that autocast need not convert them) and the decay are each
a few kernels over all layers at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from csbench.core.training import Recipe
from csbench.training.layers import SparseLayers
from csbench.training.schedule import Phase
from csbench.training.schemes.base import Scheme


class NM(Scheme):
    """Training from scratch on dense weights of which N of M are used."""

    name = "nm"
    pattern = "nm"
    recipe = Recipe(
        scheme="Training from scratch", method="Sparse-refined regularization",
        weight_decay=5e-5, warmup_epochs=5, decay=2e-4,
    )  # fmt: skip
    own_epochs = 120

    def attach(self, model: nn.Module, channels_last: bool, dtype: torch.dtype) -> nn.Module:
        self._layers = SparseLayers(model, self.spec, channels_last)
        self._network = StraightThroughNetwork(model, self._layers)
        self._dtype = dtype
        return self._network

    def phases(self, steps: int) -> tuple[Phase, ...]:
        return (Phase("SR-STE", steps, 1 - self.sparsity),)

    @torch.no_grad()
    def before_forward(self) -> None:
        layers = self.layers
        layers.choose(layers.flat.abs(), layers.kept_of_group[0])
        if self._dtype == torch.float32:
            masked = layers.flat * layers.mask
        else:
            masked = layers.flat.to(self._dtype).mul_(layers.mask)
        self._network.masked = layers.views(masked)

    @torch.no_grad()
    def before_optimiser(self, gradients: Sequence[Tensor]) -> None:
        self._network.masked = []  # their memory is free while the optimiser runs
        layers = self.layers
        left_out = layers.views(layers.flat.masked_fill(layers.mask, 0))
        torch._foreach_add_(list(gradients), left_out, alpha=self.recipe.decay)

    def after_optimiser(self) -> None:
        """The weights stay dense."""

    @torch.no_grad()
    def update(self, sparsity: float) -> None:
        """Masks are chosen before every forward pass; here for a step that is not followed."""
        layers = self.layers
        layers.choose(layers.flat.abs(), layers.kept_of_group[0])

    def finish(self) -> None:
        self.update(self.sparsity)
        super().finish()


class StraightThroughNetwork(nn.Module):
    """A network that runs on `masked` in place of its sparse layers' parameters (as they are, when
    it is empty); their gradients reach the parameters unmasked.
    """

    def __init__(self, model: nn.Module, layers: SparseLayers) -> None:
        super().__init__()
        self.model = model
        self.masked: list[Tensor] = []
        self._names, self._own = layers.names, layers.parameters

    def forward(self, images: Tensor) -> Any:
        if not self.masked:
            return self.model(images)
        used = {
            name: StraightThrough.apply(own, masked)  # type: ignore[no-untyped-call]
            for name, own, masked in zip(self._names, self._own, self.masked, strict=True)
        }
        return functional_call(self.model, used, (images,))


class StraightThrough(torch.autograd.Function):
    """The masked weight, whose gradient goes to the dense one."""

    @staticmethod
    def forward(ctx: Any, dense: Tensor, masked: Tensor) -> Tensor:
        ctx.dtype = dense.dtype
        return masked.view_as(masked)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].to(ctx.dtype), None

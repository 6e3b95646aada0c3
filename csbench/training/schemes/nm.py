"""nm: SR-STE (Zhou et al., ICLR 2021), the N largest of M chosen anew in every step.

The forward pass runs on masked copies of the weights, the gradient goes straight through to the
dense ones, and the weights left out are decayed: dL/dW = g + 2e-4 (1 - mask) W. The copies are
those that autocast would make anyway, in the precision of the forward pass, with zeros written over
what is left out: to autograd they are plain conversions, so nothing of a step is done layer by
layer in Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from csbench.core.training import Recipe
from csbench.training.schedule import Phase
from csbench.training.schemes.base import Scheme
from csbench.training.sr_ste import work_on


class NM(Scheme):
    """Training from scratch on dense weights of which N of M are used."""

    name = "nm"
    pattern = "nm"
    recipe = Recipe(
        scheme="Training from scratch", method="Sparse-refined regularization",
        weight_decay=5e-5, warmup_epochs=5, decay=2e-4,
    )  # fmt: skip
    own_epochs = 120

    def attach(self, model: nn.Module, channels_last: bool, dtype: torch.dtype) -> None:
        super().attach(model, channels_last, dtype)
        self._work, self._dtype = work_on(self.layers), dtype
        owners = [model.get_submodule(name.rpartition(".")[0]) for name in self.layers.names]
        self._slots: list[dict[str, Any]] = [owner._parameters for owner in owners]

    def phases(self, steps: int) -> tuple[Phase, ...]:
        return (Phase("SR-STE", steps, 1 - self.sparsity),)

    def before_forward(self) -> None:
        self._run_on(self.masked_weights())

    def after_forward(self) -> None:
        self._run_on(self.layers.parameters)

    def masked_weights(self) -> Sequence[Tensor]:
        """What the forward pass runs on: one a layer, a function of its parameter."""
        copies = [p.to(self._dtype, copy=True) for p in self.layers.parameters]
        with torch.no_grad():
            self._work.hide(copies)
        return copies

    def before_optimiser(self) -> None:
        self._work.decay(self.recipe.decay)

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

    def _run_on(self, weights: Sequence[Tensor]) -> None:
        """Put tensors where the network's layers look for their parameters."""
        for slot, weight in zip(self._slots, weights, strict=True):
            slot["weight"] = weight

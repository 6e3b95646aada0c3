"""What a training scheme is: where it hooks into a step, and what its schedule costs."""

from __future__ import annotations

from contextlib import nullcontext
from typing import ClassVar

import torch
from torch import nn

from csbench.core.pattern import PatternSpec
from csbench.core.training import Recipe
from csbench.sparse.network import verify_state
from csbench.sparse.threads import one_thread
from csbench.training.layers import SparseLayers
from csbench.training.schedule import Phase

_SEARCHED = ("ovw", "shfl-bw")  # row searches decide one row after the other, on the host


class Scheme:
    """One way to train to a pattern. A step calls, in order: `before_forward`, the network,
    `after_forward`, backward, `before_optimiser`, the optimiser, `after_optimiser`.

    By itself this class keeps a mask fixed: weights outside of it are zero after every step.
    """

    name: ClassVar[str]
    pattern: ClassVar[str]  # the family that it trains to
    recipe: ClassVar[Recipe]
    own_epochs: ClassVar[int]  # of its whole schedule on ImageNet
    event: ClassVar[str] = "mask update"  # what choosing the masks is called

    def __init__(self, spec: PatternSpec, interval: int) -> None:
        self.spec, self.interval = spec, interval
        self._layers: SparseLayers | None = None

    @property
    def layers(self) -> SparseLayers:
        assert self._layers is not None, "attach() comes first"
        return self._layers

    @property
    def sparsity(self) -> float:
        return self.spec.own_sparsity or 0.0

    def attach(self, model: nn.Module, channels_last: bool, dtype: torch.dtype) -> None:
        """Take hold of the model's weights; `dtype` is what the forward pass computes in.

        Raises PatternError where no layer can carry the pattern.
        """
        self._layers = SparseLayers(model, self.spec, channels_last)

    def phases(self, steps: int) -> tuple[Phase, ...]:
        """The schedule of `steps` steps."""
        raise NotImplementedError

    def sparsity_at(self, step: int, steps: int) -> float | None:
        """The sparsity to choose masks for after a step; None where the masks stay."""
        return None

    def before_forward(self) -> None:
        """Work before the network runs."""

    def after_forward(self) -> None:
        """What follows the network's run at once; the backward pass is still to come."""

    def before_optimiser(self) -> None:
        """Work on the gradients of the sparse layers."""

    def after_optimiser(self) -> None:
        """Work on the updated weights."""
        if self._layers is not None:
            self.layers.flat.mul_(self.layers.mask)

    def update(self, sparsity: float) -> None:
        """Choose the masks anew from the weights, at a sparsity up to the scheme's own."""
        from csbench.sparse.patterns import for_spec  # the searches are needed here alone

        if sparsity == 0.0:
            self.layers.mask.fill_(True)
            return
        pattern, search = for_spec(self.spec), self.spec.name in _SEARCHED
        with one_thread() if search else nullcontext():
            for parameter, mask in zip(self.layers.parameters, self.layers.masks, strict=True):
                weight = parameter.detach().contiguous()
                mask.copy_(pattern.mask(weight.cpu() if search else weight, sparsity))

    def finish(self) -> None:
        """Leave only the kept weights, at the scheme's own sparsity."""
        if self._layers is not None:
            self.layers.flat.mul_(self.layers.mask)

    def verify(self, model: nn.Module) -> None:
        """Raises PatternError where the finished weights do not keep the pattern."""
        if self.spec.name != "dense":
            verify_state({k: v.cpu() for k, v in model.state_dict().items()}, self.spec)


def fixed(steps: int, sparsity: float, updates: int = 0) -> Phase:
    """The last phase of most schemes: a mask that stays."""
    return Phase("fixed mask", steps, 1 - sparsity, updates)

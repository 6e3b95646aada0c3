"""block: blocks pruned by their norm along a cubic schedule."""

from __future__ import annotations

from csbench.core.training import Recipe
from csbench.training.schemes.gradual import GradualScheme


class Block(GradualScheme):
    """Gradual pruning of RxC blocks; the source gives no settings, so CS's epochs are taken."""

    name = "block"
    pattern = "block"
    recipe = Recipe(scheme="Pretrain+finetune", method="Gradual pruning", finetune_lr=0.1)
    own_epochs = 180

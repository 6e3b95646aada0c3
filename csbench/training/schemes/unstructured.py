"""unstructured: single weights pruned by magnitude along a cubic schedule (Zhu and Gupta, 2017)."""

from __future__ import annotations

from csbench.core.training import Recipe
from csbench.training.schemes.gradual import GradualScheme


class Unstructured(GradualScheme):
    """Gradual pruning of single weights, each layer at the same sparsity."""

    name = "unstructured"
    pattern = "unstructured"
    recipe = Recipe(scheme="Pretrain+finetune", method="Gradual pruning", finetune_lr=0.1)
    own_epochs = 180

"""cs-c: Complementary Sparsity under the others' plain settings (the source's rows "CS-C")."""

from __future__ import annotations

import torch

from csbench.core.training import Recipe
from csbench.training.schemes.oneshot import OneShot


class CSC(OneShot):
    """Pretrained dense; the largest weight of every complementary group kept, then finetuned."""

    name = "cs-c"
    pattern = "cs"
    recipe = Recipe(scheme="Pretrain+finetune", method="none", finetune_lr=0.1)
    own_epochs = 180
    event = "mask choice"

    @torch.no_grad()
    def update(self, sparsity: float) -> None:
        layers = self.layers
        n, m = layers.kept_of_group
        layers.choose(layers.flat.abs(), n if sparsity else m)

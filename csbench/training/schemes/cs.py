"""cs: Complementary Sparsity's own scheme (Zhao et al., TMLR 2023), as far as its source tells.

Pretraining prunes gradually and chooses anew which weights of a complementary group are kept;
finetuning keeps the mask. The source gives no formulas. csbench takes the cubic schedule of Zhu and
Gupta (2017): every group of M keeps N weights, N falling from M to 1. A weight that was left out is
zero, and the optimiser still updates it before it is masked again; where it would, in one momentum
step, grow above the kept ones when the masks are chosen, it takes their place. So no dense network
is kept beside the sparse one.
"""

from __future__ import annotations

import math

import torch

from csbench.core.training import Recipe
from csbench.training.schemes.gradual import GradualScheme


class CS(GradualScheme):
    """Pretrain under rising sparsity with re-selection, finetune under the final mask."""

    name = "cs"
    pattern = "cs"
    recipe = Recipe(scheme="Pretrain+finetune", method="Gradual pruning", finetune_lr=0.1)
    own_epochs = 180
    begin = 0.0
    end = 0.5
    ramp = 0.8

    @torch.no_grad()
    def update(self, sparsity: float) -> None:
        layers = self.layers
        least, m = layers.kept_of_group
        # Rounded up: the sparsity of a group is never ahead of the schedule.
        n = max(least, math.ceil((1 - sparsity) * m - 1e-9))
        layers.choose(layers.flat.abs(), n)

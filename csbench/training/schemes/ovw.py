"""ovw: pretrain, gather the rows by balanced clustering, finetune (Tan et al., NeurIPS 2022)."""

from __future__ import annotations

from csbench.core.training import Recipe
from csbench.training.schemes.oneshot import OneShot


class OVW(OneShot):
    """V x 1 vectors kept whole; the row clustering is one search between the two stages."""

    name = "ovw"
    pattern = "ovw"
    recipe = Recipe(scheme="Pretrain+finetune", method="Row clustering", finetune_lr=0.0008)
    own_epochs = 200
    event = "row clustering"

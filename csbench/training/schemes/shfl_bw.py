"""shfl-bw: pretrain, shuffle the rows by the Shfl-BW heuristic, finetune (DAC 2022)."""

from __future__ import annotations

from csbench.core.training import Recipe
from csbench.training.schemes.oneshot import OneShot


class ShflBW(OneShot):
    """V x 1 vectors kept whole; the shuffle is one search. Its epochs are not published: OVW's."""

    name = "shfl-bw"
    pattern = "shfl-bw"
    recipe = Recipe(scheme="Pretrain+finetune", method="Heuristic searching", finetune_lr=0.0008)
    own_epochs = 200
    event = "row shuffle search"

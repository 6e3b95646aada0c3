"""dense: plain training, what all others are compared with."""

from __future__ import annotations

import torch
from torch import nn

from csbench.core.training import Recipe
from csbench.training.schedule import Phase
from csbench.training.schemes.base import Scheme


class Dense(Scheme):
    """Every weight trained; no hook does anything."""

    name = "dense"
    pattern = "dense"
    recipe = Recipe(scheme="Training from scratch", method="none")
    own_epochs = 90

    def attach(self, model: nn.Module, channels_last: bool, dtype: torch.dtype) -> None:
        """No weight is taken hold of."""

    def phases(self, steps: int) -> tuple[Phase, ...]:
        return (Phase("dense", steps, 1.0),)

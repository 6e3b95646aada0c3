"""Synthetic weights: rounding errors stay small through a whole network, and nothing is hidden."""

from __future__ import annotations

import torch
from torch import nn

from csbench import models
from csbench.graph import reference, trace
from csbench.models.initialise import soften


def test_a_synthetic_resnet_does_not_multiply_rounding_errors() -> None:
    """With branches as strong as shortcuts the error is several times larger: then this fails."""
    model = models.build("resnet32")
    models.calibrate(model, (3, 32, 32))
    program = trace(model, (3, 32, 32), "resnet32")
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    exact = reference.run(program, x)
    error = reference.relative_error(reference.run(program, x, torch.float32), exact)
    assert error < 3e-7


def test_branches_that_start_at_zero_are_woken() -> None:
    norm = nn.BatchNorm2d(4)
    nn.init.zeros_(norm.weight)
    soften(nn.Sequential(norm))
    assert norm.weight.all()

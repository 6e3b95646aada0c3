"""Batch-norm statistics for synthetic weights, so that activations are sane in every precision."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from csbench.models.resolve import ImageSize

IMAGES = 4


@torch.no_grad()
def calibrate(model: nn.Module, input_size: ImageSize, seed: int = 0) -> None:
    """Set every batch norm's mean and variance from random images, in one pass, in place.

    Call it after masking: statistics of the dense weights do not fit the pruned ones. Weights of
    a trained checkpoint come with their own statistics and need none of this.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    generator = torch.Generator().manual_seed(seed)
    weight = next(model.parameters())
    images = torch.randn(IMAGES, *input_size, generator=generator).to(weight)
    momenta = [norm.momentum for norm in norms]
    training = model.training
    model.eval()
    try:
        for norm in norms:
            norm.train()
            norm.momentum = 1.0  # the statistics of this batch, nothing of what was there
        model(images)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.train(training)
    for norm in norms:
        assert norm.running_var is not None
        # A channel that pruning left without weights has variance 0 and would divide by it.
        norm.running_var[norm.running_var < norm.eps] = 1.0

"""Weights of a synthetic network from a seed, without touching torch's global generator."""

from __future__ import annotations

import math

import torch
from torch import nn


def initialise(model: nn.Module, seed: int) -> None:
    """Kaiming's normal (fan out) for convolutions, 1/sqrt(fan in) for linear layers, plain norms.

    He et al., 2015: what torchvision does for its ResNets.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels // module.groups * math.prod(module.kernel_size)
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out), generator=generator)
        elif isinstance(module, nn.Linear):
            std = 1 / math.sqrt(module.in_features)
            nn.init.normal_(module.weight, std=std, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

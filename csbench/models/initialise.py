"""Weights of a synthetic network from a seed, without touching torch's global generator."""

from __future__ import annotations

import math

import torch
from torch import nn

from csbench.models.mobilenet import InvertedResidual
from csbench.models.resnet import BasicBlock, Bottleneck

# Scale of a residual branch against its shortcut. A network of random weights whose branches count
# as much as their shortcuts is chaotic: it multiplies rounding errors by hundreds (ResNet50's fp32
# output is then off by 1.6e-5, bf16's by 10 %), and no tolerance can tell a wrong kernel from a
# right one. Trained networks are not so; training starts from 0 for that reason (Goyal et al.,
# 2017). With 0.1 ResNet50's are off by 6e-7 and 0.8 %.
BRANCH = 0.1
# Where an activation follows, most of what passes it should: networks without residuals (VGG16 is
# 6 % off in bf16 without this, 0.8 % with it) and ReLU6 are as chaotic.
BIAS = 1.5
BIAS_WITHOUT_RESIDUALS = 3.0


def initialise(model: nn.Module, seed: int) -> None:
    """Kaiming's normal (fan out) for convolutions, 1/sqrt(fan in) for linear layers, plain norms.

    He et al., 2015: what torchvision does for its ResNets. Residual branches are softened.
    """
    generator = torch.Generator().manual_seed(seed)
    ends = {_end(module) for module in model.modules()} - {None}
    bias = BIAS if ends else BIAS_WITHOUT_RESIDUALS
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels // module.groups * math.prod(module.kernel_size)
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out), generator=generator)
        elif isinstance(module, nn.Linear):
            std = 1 / math.sqrt(module.in_features)
            nn.init.normal_(module.weight, std=std, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
            nn.init.constant_(module.bias, 0.0 if module in ends else bias)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    soften(model)


def soften(model: nn.Module) -> None:
    """Scale residual branches by the batch norm that ends them; norms that start at 0 do not stay.

    A norm of zeros (a library's own start for training) would hide everything that a branch
    computes from every check.
    """
    for module in model.modules():
        if (end := _end(module)) is not None:
            nn.init.constant_(end.get_parameter("weight"), BRANCH)
        elif isinstance(module, nn.BatchNorm2d) and module.affine and not module.weight.any():
            nn.init.constant_(module.weight, BRANCH)


def _end(module: nn.Module) -> nn.Module | None:
    """The batch norm that ends a block's residual branch."""
    if isinstance(module, Bottleneck):
        return module.bn3
    if isinstance(module, BasicBlock):
        return module.bn2
    if isinstance(module, InvertedResidual) and module.residual:
        return module.conv[-1]
    return None

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


def initialise(model: nn.Module, seed: int) -> None:
    """Kaiming's normal (fan out) for convolutions, 1/sqrt(fan in) for linear layers, plain norms.

    He et al., 2015: what torchvision does for its ResNets. Residual branches are softened.
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
    soften(model)


def soften(model: nn.Module) -> None:
    """Scale residual branches by the batch norm that ends them; norms that start at 0 do not stay.

    A norm of zeros (a library's own start for training) would hide everything that a branch
    computes from every check.
    """
    for module in model.modules():
        if isinstance(module, Bottleneck):
            nn.init.constant_(module.bn3.weight, BRANCH)
        elif isinstance(module, BasicBlock):
            nn.init.constant_(module.bn2.weight, BRANCH)
        elif isinstance(module, InvertedResidual) and module.residual:
            nn.init.constant_(module.conv[-1].get_parameter("weight"), BRANCH)
        elif isinstance(module, nn.BatchNorm2d) and module.affine and not module.weight.any():
            nn.init.constant_(module.weight, BRANCH)

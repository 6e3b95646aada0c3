"""What a fused convolution means, in float64 on the CPU: every backend is compared with this."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor

from csbench.graph.program import Conv, Program


def convolution(conv: Conv, x: Tensor, residual: Tensor | None = None) -> Tensor:
    """activation(conv(x) + bias [+ residual]) in float64; x is [N, Cin, H, W] of any type."""
    y = F.conv2d(
        x.detach().cpu().double(), conv.weight.double(), conv.bias.double(),
        conv.stride, conv.padding, conv.dilation, conv.groups,
    )  # fmt: skip
    if residual is not None:
        y = y + residual.detach().cpu().double()
    if conv.activation == "relu":
        y = F.relu(y)
    elif conv.activation == "relu6":
        y = F.relu6(y)
    return y


def run(program: Program, x: Tensor) -> Tensor:
    """The whole network in float64 on the CPU; x is [N, C, H, W]."""
    values = {0: x.detach().cpu().double()}
    last_use = program.last_use()
    for i, step in enumerate(program.steps):
        arguments = [values[n] for n in step.inputs]
        op = step.op
        values[step.output] = (
            convolution(op, *arguments) if isinstance(op, Conv) else op(*arguments)
        )
        for n in step.inputs:
            if last_use[n] == i:
                values.pop(n, None)
    return values[program.result]


def relative_error(out: Tensor, reference: Tensor) -> float:
    """||out - ref|| / ||ref|| in float64; NaN or infinity anywhere gives infinity."""
    got, expected = out.detach().cpu().double(), reference.detach().cpu().double()
    if got.shape != expected.shape or not torch.isfinite(got).all():
        return float("inf")
    scale = torch.linalg.vector_norm(expected)
    return float(torch.linalg.vector_norm(got - expected) / (scale if scale > 0 else 1.0))

"""What a fused convolution means, in float64 on the CPU: every backend is compared with this."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor

from csbench.graph.program import Conv, Program


def convolution(
    conv: Conv, x: Tensor, residual: Tensor | None = None, *, dtype: torch.dtype = torch.float64
) -> Tensor:
    """activation(conv(x) + bias [+ residual]) in float64; x is [N, Cin, H, W] of any type."""
    y = F.conv2d(
        x.detach().to("cpu", dtype), conv.weight.to(dtype), conv.bias.to(dtype),
        conv.stride, conv.padding, conv.dilation, conv.groups,
    )  # fmt: skip
    if residual is not None:
        y = y + residual.detach().to("cpu", dtype)
    if conv.activation == "relu":
        y = F.relu(y)
    elif conv.activation == "relu6":
        y = F.relu6(y)
    return y


def run(program: Program, x: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """The whole network in float64 (or another type) on the CPU; x is [N, C, H, W]."""
    values = {0: x.detach().to("cpu", dtype)}
    last_use = program.last_use()
    for i, step in enumerate(program.steps):
        arguments = [values[n] for n in step.inputs]
        op = step.op
        values[step.output] = (
            convolution(op, arguments[0], *arguments[1:], dtype=dtype)
            if isinstance(op, Conv)
            else op(*arguments)
        )
        for n in step.inputs:
            if last_use[n] == i:
                values.pop(n, None)
    return values[program.result]


def relative_error(out: Tensor, reference: Tensor) -> float:
    """||out - ref|| / ||ref|| in float64; NaN or infinity anywhere gives infinity."""
    got = out.detach().double()
    expected = reference.detach().to(got.device).double()
    if got.shape != expected.shape or not torch.isfinite(got).all():
        return float("inf")
    scale = torch.linalg.vector_norm(expected)
    return float(torch.linalg.vector_norm(got - expected) / (scale if scale > 0 else 1.0))

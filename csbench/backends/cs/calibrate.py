"""The magnitudes that a network's values take, from which fp32 activations get their scales."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor

from csbench.core.case import Case
from csbench.graph.program import Conv, Program

_CALIBRATION_BATCH = 4


@dataclass(frozen=True)
class Peak:
    """The largest magnitude that a value took, and its channels."""

    peak: float
    channels: int


@torch.no_grad()
def calibrate(program: Program, case: Case) -> dict[int, Peak]:
    """The peaks of all values on standard normal images, in float32 on the device."""
    batch = min(case.batch, _CALIBRATION_BATCH)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(batch, *program.input_size, generator=draw).to(case.device)
    values, peaks, last_use = {0: x}, {0: _peak(x)}, program.last_use()
    for i, step in enumerate(program.steps):
        inputs = [values[n] for n in step.inputs]
        op = step.op
        y = _convolve(op, *inputs) if isinstance(op, Conv) else op(*inputs)
        values[step.output], peaks[step.output] = y, _peak(y)
        for n in set(step.inputs):
            if last_use[n] == i:
                del values[n]
    return peaks


def _peak(x: Tensor) -> Peak:
    return Peak(float(x.abs().max()), x.shape[1] if x.dim() > 1 else 0)


def _convolve(conv: Conv, x: Tensor, residual: Tensor | None = None) -> Tensor:
    weight, bias = conv.weight.to(x.device), conv.bias.to(x.device)
    y = F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
    if residual is not None:
        y = y + residual
    if conv.activation == "relu6":
        return F.relu6(y)
    return F.relu(y) if conv.activation == "relu" else y

"""A depthwise convolution between gather layers: dense, on channels that are runs of columns."""

from __future__ import annotations

import math

from csbench.graph.program import Conv
from csbench.kernels.gather import io
from csbench.kernels.gather.layout import Activation

_ACTIVATIONS = {"none": 0, "relu": 1, "relu6": 2}


def is_depthwise(conv: Conv) -> bool:
    """Whether every output channel reads the one input channel at its place."""
    return (
        conv.groups > 1
        and conv.groups == conv.input_size[0] == conv.weight.shape[0]
        and (not conv.residual)
    )


class Depthwise:
    """Weights on the device; x and the result are stored times the given scales."""

    def __init__(self, conv: Conv, device: str, x_scale: float, out_scale: float) -> None:
        self.conv, self.scale = conv, out_scale / x_scale
        self.weights = conv.weight.float().contiguous().to(device)
        self.bias = (conv.bias.float() * out_scale).to(device)
        self.limit = 6.0 * out_scale if conv.activation == "relu6" else math.inf

    @property
    def bytes(self) -> int:
        return 4 * (self.weights.numel() + self.bias.numel())

    def run(self, x: Activation) -> Activation:
        """The fused convolution."""
        c = self.conv
        return io.depthwise(
            x, self.weights, self.bias, self.scale, _ACTIVATIONS[c.activation], self.limit,
            c.stride, c.padding, c.dilation, (c.output_size[1], c.output_size[2]),
        )  # fmt: skip

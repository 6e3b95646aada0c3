"""Convolutions and other steps of a program as layers of a TensorRT network definition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from csbench.errors import BackendError
from csbench.graph.operation import Leaf, Operation
from csbench.graph.program import Conv, Program, Step


class Translation:
    """Adds layers to `network` (tensorrt.INetworkDefinition); `trt` is the tensorrt module.

    TensorRT reads the weights when the engine is built: until then this object must be alive.
    """

    def __init__(self, trt: Any, network: Any) -> None:
        self._trt, self._network = trt, network
        self._weights: list[Any] = []

    def program(self, program: Program, x: Any) -> Any:
        """All steps of a program on the tensor `x`; the tensor of its result."""
        values = {0: x}
        for step in program.steps:
            inputs = [values[number] for number in step.inputs]
            values[step.output] = (
                self.convolution(step.op, *inputs)
                if isinstance(step.op, Conv)
                else self._operation(step, inputs)
            )
        return values[program.result]

    def convolution(self, conv: Conv, x: Any, residual: Any = None) -> Any:
        """The fused convolution; TensorRT fuses addition and activation into it again."""
        layer = self._network.add_convolution_nd(
            x, conv.weight.shape[0], tuple(conv.weight.shape[2:]), self._array(conv.weight),
            self._array(conv.bias),
        )  # fmt: skip
        layer.name = conv.name  # the engine's own report speaks of layers by name
        layer.stride_nd, layer.padding_nd = conv.stride, conv.padding
        layer.dilation_nd, layer.num_groups = conv.dilation, conv.groups
        y = layer.get_output(0)
        if residual is not None:
            y = self._sum(y, residual)
        if conv.activation == "none":
            return y
        kinds = self._trt.ActivationType
        if conv.activation == "relu":
            return self._network.add_activation(y, kinds.RELU).get_output(0)
        clip = self._network.add_activation(y, kinds.CLIP)
        clip.alpha, clip.beta = 0.0, 6.0
        return clip.get_output(0)

    def _operation(self, step: Step, inputs: Sequence[Any]) -> Any:
        """Any other step, by what it does to random numbers; raises BackendError for the rest."""
        if (pooling := _max_pooling(step.op)) is not None:
            return self._max_pool(pooling, inputs[0])
        samples = [torch.randn(1, *tuple(tensor.shape)[1:]) for tensor in inputs]
        assert not isinstance(step.op, Conv)
        out, x = step.op(*samples), samples[0]
        if len(samples) == 2 and torch.equal(out, x + samples[1]):
            return self._sum(*inputs)
        if len(samples) == 1 and torch.equal(out.flatten(), x.flatten()):
            return self._reshaped(inputs[0], out)
        if len(samples) == 1 and _is_mean(x, out):
            pixels = (1 << 2) | (1 << 3)
            mean = self._network.add_reduce(inputs[0], self._trt.ReduceOperation.AVG, pixels, True)
            return self._reshaped(mean.get_output(0), out)
        raise BackendError(f"tensorrt has no layer for step '{step.name}' of the model")

    def _sum(self, x: Any, y: Any) -> Any:
        layer = self._network.add_elementwise(x, y, self._trt.ElementWiseOperation.SUM)
        return layer.get_output(0)

    def _max_pool(self, module: nn.MaxPool2d, x: Any) -> Any:
        layer = self._network.add_pooling_nd(
            x, self._trt.PoolingType.MAX, _pair(module.kernel_size)
        )
        layer.stride_nd, layer.padding_nd = _pair(module.stride), _pair(module.padding)
        return layer.get_output(0)

    def _reshaped(self, x: Any, like: Tensor) -> Any:
        """The same numbers in the shape of `like`, which is a batch of one."""
        layer = self._network.add_shuffle(x)
        batch, *_ = tuple(x.shape)
        layer.reshape_dims = (batch, *like.shape[1:])
        return layer.get_output(0)

    def _array(self, x: Tensor) -> Any:
        self._weights.append(x.detach().float().contiguous().numpy())
        return self._weights[-1]


def _max_pooling(op: Any) -> nn.MaxPool2d | None:
    """The module of a step that is a max pooling which TensorRT has."""
    if not isinstance(op, Operation) or not isinstance(op.root.function, Leaf):
        return None
    module = op.root.function.module
    if not isinstance(module, nn.MaxPool2d) or module.ceil_mode or module.return_indices:
        return None
    return module if _pair(module.dilation) == (1, 1) else None


def _is_mean(x: Tensor, out: Tensor) -> bool:
    """Whether `out` is the mean of all pixels of the images `x`."""
    if x.dim() != 4 or out.numel() != math.prod(x.shape[:2]):
        return False
    return torch.allclose(out.flatten(1), x.mean((2, 3)), atol=1e-6)


def _pair(size: int | tuple[int, ...]) -> tuple[int, ...]:
    return (size, size) if isinstance(size, int) else tuple(size)

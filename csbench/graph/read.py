"""What a traced node is: a weighted layer, a batch norm, an activation, an addition, nothing."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from csbench.errors import ModelError
from csbench.graph.program import Activation

Pair = tuple[int, int]
Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Layer:
    """A Conv2d or a Linear: its input and its own numbers; `linear` works on the last dimension."""

    name: str
    source: fx.Node
    weight: Tensor
    bias: Tensor | None
    linear: bool = False
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1


@dataclass(frozen=True, eq=False)
class Norm:
    """A batch norm in evaluation mode: (x - mean) / sqrt(variance + eps) * weight + bias."""

    source: fx.Node
    mean: Tensor
    variance: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float


@dataclass(frozen=True, eq=False)
class Reader:
    """A traced graph with its modules, and the tensors that do not depend on the image."""

    modules: dict[str, nn.Module]
    constants: dict[fx.Node, Tensor]

    def module(self, node: fx.Node) -> nn.Module | None:
        return self.modules[str(node.target)] if node.op == "call_module" else None

    def layer(self, node: fx.Node) -> Layer | None:
        """The node as a convolution or linear layer; raises ModelError for one we cannot run."""
        module = self.module(node)
        if isinstance(module, nn.Conv2d):
            padding = _padding(module.padding, module.kernel_size, module.dilation, node)
            if module.padding_mode != "zeros":
                raise _refused(node, f"padding mode '{module.padding_mode}'", "pad with zeros")
            return Layer(
                str(node.target), _node(node), module.weight, module.bias, False,
                _pair(module.stride), padding, _pair(module.dilation), module.groups,
            )  # fmt: skip
        if isinstance(module, nn.Linear):
            return Layer(str(node.target), _node(node), module.weight, module.bias, linear=True)
        arguments, options = _bound(node)
        if node.op == "call_function" and node.target is torch.conv2d:
            return self._functional_conv(node, *arguments, **options)
        if node.op == "call_function" and node.target is F.linear:
            return self._functional_linear(node, *arguments, **options)
        return None

    def _functional_conv(
        self, node: fx.Node, input: Any, weight: Any, bias: Any = None, stride: Any = 1,
        padding: Any = 0, dilation: Any = 1, groups: int = 1,
    ) -> Layer:  # fmt: skip
        w = self._weights(node, weight)
        pad = _padding(padding, w.shape[2:], _pair(dilation), node)
        b = None if bias is None else self._weights(node, bias)
        return Layer(
            _owner(weight), input, w, b, False, _pair(stride), pad, _pair(dilation), groups
        )

    def _functional_linear(self, node: fx.Node, input: Any, weight: Any, bias: Any = None) -> Layer:
        b = None if bias is None else self._weights(node, bias)
        return Layer(_owner(weight), input, self._weights(node, weight), b, linear=True)

    def _weights(self, node: fx.Node, weight: Any) -> Tensor:
        if weight not in self.constants:
            raise _refused(node, "weights that depend on the image", "use constant weights")
        return self.constants[weight]

    def norm(self, node: fx.Node) -> Norm | None:
        """The node as a batch norm with fixed statistics."""
        module = self.module(node)
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            assert module.running_var is not None
            return Norm(
                _node(node), module.running_mean, module.running_var, module.weight, module.bias,
                module.eps,
            )  # fmt: skip
        if node.op == "call_function" and node.target is F.batch_norm:
            arguments, options = _bound(node)
            return self._functional_norm(*arguments, **options)
        return None

    def _functional_norm(
        self, input: Any, running_mean: Any, running_var: Any, weight: Any = None,
        bias: Any = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
    ) -> Norm | None:  # fmt: skip
        if training or input in self.constants:
            return None
        mean, variance, scale, shift = (
            None if n is None else self.constants[n]
            for n in (running_mean, running_var, weight, bias)
        )
        assert mean is not None and variance is not None
        return Norm(input, mean, variance, scale, shift, eps)

    def activation(self, node: fx.Node) -> tuple[fx.Node, Activation] | None:
        """The input and kind of a ReLU or ReLU6."""
        module = self.module(node)
        kind: Activation | None = None
        if isinstance(module, nn.ReLU) or _is(node, "relu", F.relu, torch.relu):
            kind = "relu"
        elif _is(node, "relu6", F.relu6) or (
            isinstance(module, nn.Hardtanh) and (module.min_val, module.max_val) == (0, 6)
        ):  # ReLU6 is a Hardtanh
            kind = "relu6"
        return None if kind is None else (_node(node), kind)

    def addition(self, node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
        """The two tensors of one shape that the node adds."""
        if not _is(node, "add", operator.add, torch.add) or len(node.args) != 2 or node.kwargs:
            return None
        left, right = node.args
        if not (isinstance(left, fx.Node) and isinstance(right, fx.Node)):
            return None
        if left in self.constants or right in self.constants or shape(left) != shape(right):
            return None
        return left, right

    def identity(self, node: fx.Node) -> fx.Node | None:
        """The tensor that the node passes on unchanged in evaluation mode."""
        module = self.module(node)
        silent = isinstance(
            module, nn.Identity | nn.Dropout | nn.Dropout2d | nn.AlphaDropout
        ) or _is(node, "contiguous", F.dropout, F.dropout2d)
        # VGG's adaptive pooling to 7x7 does nothing at 224x224.
        pooling = isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d)
        pooling = pooling or _is(node, "", F.adaptive_avg_pool2d)
        if silent or (pooling and shape(_node(node)) == shape(node)):
            return _node(node)
        return None

    def flattened(self, node: fx.Node) -> fx.Node | None:
        """The [N, C, 1, 1] image that the node turns into [N, C]."""
        reshapes = ("flatten", "view", "reshape", "squeeze")
        module = isinstance(self.module(node), nn.Flatten)
        if not module and not any(_is(node, n, getattr(torch, n, None)) for n in reshapes):
            return None
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or shape(source) != (*shape(node), 1, 1):
            return None
        return source


def shape(node: fx.Node) -> Shape:
    """The shape of a tensor's node, () where it is not a tensor."""
    found: Shape | None = node.meta.get("shape")
    return () if found is None else found


def _bound(node: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return node.args, node.kwargs


def _is(node: fx.Node, method: str, *functions: Callable[..., Any] | None) -> bool:
    if node.op == "call_method":
        return node.target == method
    return node.op == "call_function" and node.target in functions


def _node(node: fx.Node) -> fx.Node:
    """The tensor that a one-input operation reads."""
    source = node.args[0] if node.args else node.kwargs["input"]
    assert isinstance(source, fx.Node)
    return source


def _pair(value: Any) -> Pair:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _padding(padding: Any, kernel: Any, dilation: Any, node: fx.Node) -> Pair:
    if padding == "valid":
        return (0, 0)
    if padding != "same":
        return _pair(padding)
    both = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    if any(total % 2 for total in both):
        raise _refused(node, "uneven padding", "use an odd kernel, or pad before the layer")
    return (both[0] // 2, both[1] // 2)


def _owner(weight: fx.Node) -> str:
    """The parameter prefix of a weight, looking through what is computed from it."""
    while weight.op != "get_attr" and weight.all_input_nodes:
        weight = weight.all_input_nodes[0]
    return str(weight.target).rpartition(".")[0] or str(weight.target)


def _refused(node: fx.Node, what: str, instead: str) -> ModelError:
    return ModelError(f"layer '{node.target}' has {what}, which csbench cannot run; {instead}")

"""From fused nodes to the steps of a program.

A linear layer is a 1x1 convolution, so its tensors have two forms: the `plain` one that the model
uses (channels last: [N, C], [N, T, C], [N, H, W, C]) and the `image` one [N, C, H, W]. Both are
views; a conversion becomes a step only where the other form is really read.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from csbench.errors import ModelError
from csbench.graph.fuse import Fused, fold
from csbench.graph.operation import Call, Constant, Leaf, Operation, Slot
from csbench.graph.program import Conv, Step
from csbench.graph.read import Reader, shape

Form = Literal["plain", "image"]

# Modules with parameters that may stay torch steps; any other would be work done unnoticed.
KEPT_WITH_PARAMETERS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d, nn.PReLU)


class Emitter:
    """Collects steps; `value(node, form)` is the number under which a tensor can be read."""

    def __init__(self, reader: Reader, image: fx.Node, batch: int) -> None:
        self.steps: list[Step] = []
        self._reader = reader
        self._batch = batch
        self._values: dict[tuple[fx.Node, Form], int] = {(image, "plain"): 0}
        self._names: dict[str, int] = {}

    def value(self, node: fx.Node, form: Form = "plain") -> int:
        """The number of a node's tensor in a form, converting it once where need be."""
        if (node, form) not in self._values:
            other: Form = "image" if form == "plain" else "plain"
            rank = len(shape(node))
            convert = to_image if form == "image" else functools.partial(from_image, rank=rank)
            self._add(convert, (self._values[node, other],), f"{node.name}.{form}", (node, form))
        return self._values[node, form]

    def convolution(self, fused: Fused) -> None:
        """A fused layer as a step."""
        layer, result = fused.layer, fused.nodes[-1]
        form: Form = "image" if layer.linear else "plain"
        weight, bias = fold(layer, fused.norm)
        conv = Conv(
            name=layer.name, weight=weight, bias=bias, stride=layer.stride,
            padding=layer.padding, dilation=layer.dilation, groups=layer.groups,
            activation=fused.activation, residual=fused.residual is not None,
            input_size=self._size(layer.source, layer.linear, layer.name),
            output_size=self._size(result, layer.linear, layer.name),
        )  # fmt: skip
        inputs = [self.value(layer.source, form)]
        if fused.residual is not None:
            inputs.append(self.value(fused.residual, form))
        self._add(conv, tuple(inputs), layer.name, (result, form))

    def flattened(self, source: fx.Node, node: fx.Node) -> None:
        """[N, C, 1, 1] read as [N, C]: the image form is already there."""
        self._values[node, "image"] = self.value(source)

    def operation(self, node: fx.Node) -> None:
        """Anything else as a torch step."""
        tensors: list[fx.Node] = []
        root = self._tree(node, tensors, top=True)
        assert isinstance(root, Call)
        inputs = tuple(self.value(n) for n in tensors)
        name = str(node.target) if node.op == "call_module" else node.name
        self._add(Operation(root), inputs, name, (node, "plain"))

    def _add(
        self, op: Conv | Callable[..., Tensor], inputs: tuple[int, ...], name: str,
        key: tuple[fx.Node, Form],
    ) -> None:  # fmt: skip
        number = len(self.steps) + 1
        self._names[name] = times = self._names.get(name, 0) + 1
        unique = name if times == 1 else f"{name}#{times}"  # a module that is used again
        self.steps.append(Step(op, inputs, number, unique))
        self._values[key] = number

    def _size(self, node: fx.Node, linear: bool, name: str) -> tuple[int, int, int]:
        """(channels, height, width) of a tensor that a layer reads or writes."""
        dims = shape(node)
        ranks = (2, 3, 4) if linear else (4,)
        if len(dims) not in ranks or dims[0] != self._batch:
            raise ModelError(
                f"layer '{name}' works on a tensor of shape {list(dims)} for a batch of "
                f"{self._batch}; expected images [N, C, H, W]"
                + (", tokens or features with the batch first" if linear else "")
            )
        if not linear:
            return dims[1], dims[2], dims[3]
        height, width = (*dims[1:-1], 1, 1)[:2]
        return dims[-1], height, width

    def _tree(self, item: Any, tensors: list[fx.Node], top: bool = False) -> Any:
        """An argument as a tree; whatever is not a tensor (sizes, tuples) is computed inside."""
        if isinstance(item, fx.Node):
            if item in self._reader.constants:
                return Constant(self._reader.constants[item])
            if shape(item) and not top:
                if item not in tensors:
                    tensors.append(item)
                return Slot(tensors.index(item))
            arguments = tuple(self._tree(a, tensors) for a in item.args)
            options = {k: self._tree(v, tensors) for k, v in item.kwargs.items()}
            return Call(self._function(item), arguments, options)
        if isinstance(item, slice):
            return slice(*(self._tree(p, tensors) for p in (item.start, item.stop, item.step)))
        if isinstance(item, dict):
            return {k: self._tree(v, tensors) for k, v in item.items()}
        if isinstance(item, list):  # fx's own kind of list, too
            return [self._tree(i, tensors) for i in item]
        if isinstance(item, tuple):
            return tuple(self._tree(i, tensors) for i in item)
        return item

    def _function(self, node: fx.Node) -> Callable[..., Any]:
        module = self._reader.module(node)
        if module is not None:
            parameters = any(True for _ in module.parameters())
            if parameters and not isinstance(module, KEPT_WITH_PARAMETERS):
                raise _unsupported(str(node.target), type(module).__name__)
            return Leaf(module)
        if node.op == "call_method":
            method = str(node.target)
            return lambda x, *rest, **options: getattr(x, method)(*rest, **options)
        function = node.target
        name = getattr(function, "__name__", str(function))
        if not callable(function) or name in ("conv1d", "conv3d") or "conv_transpose" in name:
            raise _unsupported(node.name, name)
        return function


def to_image(x: Tensor) -> Tensor:
    """[N, C], [N, T, C] or [N, H, W, C] as [N, C, H, W], a view."""
    image = x.movedim(-1, 1)
    return image.reshape(*image.shape, *(1,) * (4 - x.dim())) if x.dim() < 4 else image


def from_image(x: Tensor, rank: int) -> Tensor:
    """The inverse of to_image."""
    return x.reshape(x.shape[:rank]).movedim(1, -1)


def _unsupported(name: str, kind: str) -> ModelError:
    return ModelError(
        f"layer '{name}' is a {kind}, which csbench cannot run; it runs Conv2d and Linear layers, "
        "norms, and operations without weights: leave that layer out in a FILE.py:factory"
    )

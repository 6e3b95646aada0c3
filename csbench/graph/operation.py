"""A torch operation as a value: a tree of calls over a step's inputs, constants and modules."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Slot:
    """The step's input of this number."""

    index: int


@dataclass(frozen=True, eq=False)
class Call:
    """`function(*arguments, **options)`, where both may hold slots, constants and calls."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor of the model that the step reads: used in the input's precision and device."""

    tensor: Tensor
    _copies: dict[tuple[torch.dtype, torch.device], Tensor] = field(default_factory=dict)

    def like(self, x: Tensor) -> Tensor:
        key = (x.dtype, x.device)
        if key not in self._copies:
            dtype = x.dtype if self.tensor.is_floating_point() else self.tensor.dtype
            self._copies[key] = self.tensor.detach().to(x.device, dtype)
        return self._copies[key]


class Leaf:
    """A module of torch.nn that works out of place, in the input's precision and device."""

    def __init__(self, module: nn.Module) -> None:
        self._module = copy.deepcopy(module).requires_grad_(False)
        if hasattr(self._module, "inplace"):
            setattr(self._module, "inplace", False)  # noqa: B010 (torch types it as a module)
        self._copies: dict[tuple[torch.dtype, torch.device], nn.Module] = {}

    @property
    def module(self) -> nn.Module:
        """The module that is called, for backends that have a kernel of their own for it."""
        return self._module

    def __call__(self, x: Tensor, *rest: Any, **options: Any) -> Any:
        key = (x.dtype, x.device)
        if key not in self._copies:
            self._copies[key] = copy.deepcopy(self._module).to(x.device, x.dtype)
        return self._copies[key](x, *rest, **options)


@dataclass(frozen=True, eq=False)
class Operation:
    """A callable over tensors that evaluates the tree."""

    root: Call

    def __call__(self, *inputs: Tensor) -> Tensor:
        result: Tensor = evaluate(self.root, inputs)
        return result


def evaluate(tree: Any, inputs: tuple[Tensor, ...]) -> Any:
    """The value of a tree (a call, a slot, a constant, or a container of them) on the inputs."""
    if isinstance(tree, Slot):
        return inputs[tree.index]
    if isinstance(tree, Constant):
        return tree.like(inputs[0]) if inputs else tree.tensor
    if isinstance(tree, Call):
        arguments = [evaluate(a, inputs) for a in tree.arguments]
        return tree.function(*arguments, **evaluate(tree.options, inputs))
    if isinstance(tree, dict):
        return {key: evaluate(value, inputs) for key, value in tree.items()}
    if isinstance(tree, slice):
        return slice(*(evaluate(part, inputs) for part in (tree.start, tree.stop, tree.step)))
    if isinstance(tree, tuple):
        return tuple(evaluate(item, inputs) for item in tree)
    if isinstance(tree, list):
        return [evaluate(item, inputs) for item in tree]
    return tree

"""Operations that write to their input, rewritten as ones that do not."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from csbench.errors import ModelError

PLAIN_OPERATOR: dict[Any, Callable[..., Any]] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}


def functionalise(graph: fx.Graph, modules: dict[str, nn.Module]) -> None:
    """Make every operation pure: after `y = relu_(x)` whoever read x later reads y."""
    position = {node: i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if not _writes(node, modules):
            continue
        written = node.args[0] if node.args else next(iter(node.kwargs.values()))
        if isinstance(written, fx.Node):
            later = {user for user in written.users if position[user] > position[node]}
            written.replace_all_uses_with(node, delete_user_cb=later.__contains__)
        _purify(node)


def _writes(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return bool(getattr(modules[str(node.target)], "inplace", False))
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    if node.op == "call_function":
        name = getattr(node.target, "__name__", "")
        named = name.endswith("_") and not name.endswith("__")
        return node.target in PLAIN_OPERATOR or named or bool(node.kwargs.get("inplace"))
    return False


def _purify(node: fx.Node) -> None:
    """Replace the operation by its pure form; a module's copy is made pure by Leaf."""
    if node.op == "call_method":
        node.target = _named(node, Tensor, str(node.target)[:-1], method=True)
    elif node.op == "call_function":
        if node.kwargs.get("inplace"):
            node.kwargs = {k: v for k, v in node.kwargs.items() if k != "inplace"}
        elif node.target in PLAIN_OPERATOR:
            node.target = PLAIN_OPERATOR[node.target]
        else:
            node.target = _named(node, torch, getattr(node.target, "__name__", "")[:-1])


def _named(node: fx.Node, owner: Any, name: str, method: bool = False) -> Any:
    if not hasattr(owner, name):
        raise ModelError(
            f"operation '{name}_' ({node.name}) writes to its input and has no other form; "
            f"use one that returns a new tensor"
        )
    return name if method else getattr(owner, name)

"""Which nodes become one convolution: layer [+ batch norm] [+ residual] [+ activation]."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from csbench.graph.program import Activation
from csbench.graph.read import Layer, Norm, Reader, shape


@dataclass(frozen=True, eq=False)
class Fused:
    """A layer and what follows it that nobody else reads; `nodes` ends with the one that stays."""

    layer: Layer
    nodes: tuple[fx.Node, ...]
    norm: Norm | None = None
    residual: fx.Node | None = None
    activation: Activation = "none"

    def absorbing(self, node: fx.Node, **changes: object) -> Fused:
        return replace(self, nodes=(*self.nodes, node), **changes)  # type: ignore[arg-type]


def fuse(nodes: Iterable[fx.Node], reader: Reader) -> dict[fx.Node, Fused]:
    """The fused layers by the node that carries their result, in the graph's order."""
    fused: dict[fx.Node, Fused] = {}

    def open_at(node: fx.Node) -> Fused | None:
        """The layer that ends in this node and may still absorb its only reader."""
        found = fused.get(node)
        closed = found is None or found.activation != "none" or len(node.users) != 1
        return None if closed else found

    for node in nodes:
        if node in reader.constants:
            continue
        if layer := reader.layer(node):
            fused[node] = Fused(layer, (node,))
        elif norm := reader.norm(node):
            before = open_at(norm.source)
            if before and _foldable(before):
                fused[node] = fused.pop(norm.source).absorbing(node, norm=norm)
        elif operands := reader.addition(node):
            # Where both sides are convolutions the left one absorbs: in `out += shortcut(x)` it is
            # the main branch.
            for mine, other in (operands, operands[::-1]):
                before = open_at(mine)
                if before and before.residual is None and mine is not other:
                    fused[node] = fused.pop(mine).absorbing(node, residual=other)
                    break
        elif activation := reader.activation(node):
            source, kind = activation
            if open_at(source):
                fused[node] = fused.pop(source).absorbing(node, activation=kind)
    return fused


def _foldable(before: Fused) -> bool:
    """Batch norm folds where it works on the layer's output channels, and once."""
    if before.norm is not None or before.residual is not None:
        return False
    # On tokens [N, T, C] a batch norm works on T, a linear layer on C.
    return not before.layer.linear or len(shape(before.nodes[0])) == 2


def fold(layer: Layer, norm: Norm | None) -> tuple[Tensor, Tensor]:
    """Weight `[Cout, Cin / groups, kh, kw]` and bias with the batch norm folded in, in float64.

    Arithmetic is float64 so that the one rounding, to float32, is the caller's.
    """
    weight = layer.weight.detach().cpu().double()
    if layer.linear:
        weight = weight[:, :, None, None]
    bias = torch.zeros(len(weight), dtype=torch.float64)
    if layer.bias is not None:
        bias = layer.bias.detach().cpu().double()
    if norm is None:
        return weight, bias
    scale = (norm.variance.detach().cpu().double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().cpu().double()
    bias = (bias - norm.mean.detach().cpu().double()) * scale
    if norm.bias is not None:
        bias = bias + norm.bias.detach().cpu().double()
    return weight * scale[:, None, None, None], bias

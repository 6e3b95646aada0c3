"""The weights that carry a pattern, as one flat buffer: a mask costs one kernel, not one a layer.

Every parameter becomes a view of the buffer, in the memory order that the network wants
(contiguous or channels last). In either order a group of N:M or CS is M weights at a fixed stride,
so that layers of one stride, side by side in the buffer, are masked together.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from csbench.core.pattern import PatternSpec
from csbench.errors import PatternError
from csbench.sparse.layout import group_geometry, shape_of
from csbench.sparse.network import Plan, plan


@dataclass(frozen=True)
class Place:
    """Where a layer, or neighbouring layers of one stride, lie in the flat buffer.

    `stride` counts elements between two members of a group of M; 0 for patterns without groups.
    """

    begin: int
    size: int
    stride: int

    @property
    def end(self) -> int:
        return self.begin + self.size


class SparseLayers:
    """Parameters that carry a pattern; `flat` holds them all, `mask` (bool) what is kept."""

    def __init__(self, model: nn.Module, spec: PatternSpec, channels_last: bool = False) -> None:
        self.spec = spec
        self.plan: Plan = plan(model.state_dict(), spec)
        self._channels_last = channels_last
        named = dict(model.named_parameters())
        carrying = {
            f"{name}.weight" if name else "weight": found
            for name, found in self.plan.items()
            if isinstance(found, PatternSpec)
        }
        if not carrying:
            raise PatternError(f"no layer can carry {spec}: {commonest(self.plan)}")
        # Layers of one stride side by side; the order of the others stays the network's.
        self.names = sorted(carrying, key=lambda key: self._stride(named[key]))
        self.parameters = [named[key] for key in self.names]
        self.places = self._placed()
        self.flat = torch.empty(self.places[-1].end, device=self.parameters[0].device)
        self.mask = torch.ones_like(self.flat, dtype=torch.bool)
        self.masks = self.views(self.mask)
        with torch.no_grad():
            for parameter, view in zip(self.parameters, self.views(self.flat), strict=True):
                view.copy_(parameter)
                parameter.data = view
        self._segments = _joined(self.places)

    def views(self, flat: Tensor) -> list[Tensor]:
        """A flat tensor of all weights as one tensor a layer, shaped as its parameter."""
        pieces = torch.split(flat, [p.numel() for p in self.parameters])
        return [
            self._shaped(piece, parameter)
            for piece, parameter in zip(pieces, self.parameters, strict=True)
        ]

    def in_order(self, tensor: Tensor | None) -> bool:
        """Whether a tensor of a parameter's shape lies in memory as it does (None does)."""
        if tensor is None:
            return True
        last = self._channels_last and tensor.ndim == 4
        order = torch.channels_last if last else torch.contiguous_format
        return tensor.is_contiguous(memory_format=order)

    def choose(self, magnitude: Tensor, n: int) -> None:
        """Keep the n largest of every group of M by `magnitude` (flat), in the mask."""
        m = self._group_size
        for part in self._segments:
            shape = (-1, m, part.stride)
            top_n(
                magnitude[part.begin : part.end].view(shape),
                n,
                self.mask[part.begin : part.end].view(shape),
            )

    @property
    def kept_of_group(self) -> tuple[int, int]:
        """(N, M) of an nm or cs pattern."""
        _, cin, _, _ = shape_of(self.parameters[0])
        n, m, _ = group_geometry(self.spec, cin)
        return n, m

    @property
    def _group_size(self) -> int:
        return self.kept_of_group[1]

    def _stride(self, parameter: Tensor) -> int:
        if self.spec.name not in ("nm", "cs"):
            return 0
        _, cin, kh, kw = shape_of(parameter)
        _, m, span = group_geometry(self.spec, cin)
        return span // m * (1 if self._channels_last else kh * kw)

    def _placed(self) -> list[Place]:
        places: list[Place] = []
        for parameter in self.parameters:
            begin = places[-1].end if places else 0
            places.append(Place(begin, parameter.numel(), self._stride(parameter)))
        return places

    def _shaped(self, piece: Tensor, parameter: Tensor) -> Tensor:
        if parameter.ndim != 4 or not self._channels_last:
            return piece.view(parameter.shape)
        cout, cin, kh, kw = parameter.shape
        return piece.view(cout, kh, kw, cin).permute(0, 3, 1, 2)


def commonest(found: Plan) -> str:
    """The reason that most layers of a plan give for staying dense."""
    reasons = [why for why in found.values() if isinstance(why, str)]
    return statistics.mode(reasons) if reasons else "it has no convolutions"


def _joined(places: Sequence[Place]) -> list[Place]:
    """Neighbours of one stride as one place."""
    found: list[Place] = []
    for place in places:
        if found and found[-1].stride == place.stride:
            place = Place(found[-1].begin, found.pop().size + place.size, place.stride)
        found.append(place)
    return found


_MOST_PAIRS = 28  # comparisons up to M = 8; beyond, a sort inside the group is cheaper


def top_n(magnitude: Tensor, n: int, out: Tensor) -> None:
    """`out` (bool) marks the n largest along dimension 1 of `[rows, M, stride]`, ties to the first.

    Comparisons of whole slices instead of a sort: M is small and there are many groups.
    """
    m = magnitude.shape[1]
    if n >= m:
        out.fill_(True)
    elif n == 1:
        _largest(magnitude, out)
    elif math.comb(m, 2) <= _MOST_PAIRS:
        _by_rank(magnitude, n, out)
    else:
        chosen = magnitude.topk(n, dim=1, sorted=False).indices
        out.fill_(False).scatter_(1, chosen, True)


def _largest(magnitude: Tensor, out: Tensor) -> None:
    slices = magnitude.unbind(1)
    best, which = slices[0].clone(), torch.zeros_like(slices[0], dtype=torch.uint8)
    for j, value in enumerate(slices[1:], start=1):
        which.masked_fill_(value > best, j)
        torch.maximum(best, value, out=best)
    members = torch.arange(len(slices), dtype=torch.uint8, device=magnitude.device)
    torch.eq(which[:, None, :], members[None, :, None], out=out)


def _by_rank(magnitude: Tensor, n: int, out: Tensor) -> None:
    """How many others beat each member; a tie is won by the one that comes first."""
    slices = magnitude.unbind(1)
    m = len(slices)
    beaten = torch.zeros((m, *slices[0].shape), dtype=torch.int8, device=magnitude.device)
    for i in range(m):
        beaten[i] += m - 1 - i  # by all that follow, less those that it beats
        for j in range(i + 1, m):
            wins = (slices[i] >= slices[j]).view(torch.int8)
            beaten[i] -= wins
            beaten[j] += wins
    torch.lt(beaten.transpose(0, 1), n, out=out)

"""Which pattern a weight, or a whole network, keeps: read from its zeros.

Several patterns may hold at once: a block-sparse weight is also unstructured, 2:4 is also 4:8, a
weight of cs:4 is also cs:2. A pattern *explains* a weight when it holds and accounts for at least
90 % of its zeros (the rest is chance), which sets cs:2 aside for a weight of cs:4. Of those that
explain it the tightest is the one that allows the fewest masks (Pattern.freedom); of equals the one
with the least padding, then the one with fewer parameters. A weight with less than 1 % of zeros is
dense. What is measured is the weight's own zeros, so ovw and shfl-bw, whose unit is the same, are
both reported as ovw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from csbench.core.pattern import PatternSpec
from csbench.sparse.layout import Shape, as_oihw, shape_of
from csbench.sparse.patterns.block import Block
from csbench.sparse.patterns.cs import CS
from csbench.sparse.patterns.nm import NM
from csbench.sparse.patterns.registry import BUILT_IN
from csbench.sparse.patterns.unstructured import Unstructured
from csbench.sparse.patterns.vector import OVW

CHANCE = 0.01  # share of zeros below which a weight counts as dense
DENSE = PatternSpec("dense")
ROUND = (0.5, 0.75, 0.875, 0.9375, *(i / 100 for i in range(1, 100)))
FAMILIES = (Block, NM, CS, OVW, Unstructured)


def sparsity(weight: Tensor) -> float:
    """The share of zeros."""
    return 1 - int(weight.count_nonzero()) / max(1, weight.numel())


def is_dense(weight: Tensor) -> bool:
    """Whether the weight has no zeros but those of chance."""
    return sparsity(weight) < CHANCE


def explaining(weight: Tensor) -> list[PatternSpec]:
    """Every built-in pattern that explains the weight, the tightest first; [dense] when dense."""
    if is_dense(weight):
        return [DENSE]
    nonzero = as_oihw(weight) != 0
    shape = shape_of(weight)
    found = [spec for family in FAMILIES for spec in family.holding(nonzero)]
    return sorted(found, key=lambda spec: _rank([(spec, shape)]))


def tightest(weight: Tensor) -> PatternSpec:
    """The most restrictive pattern that the weight keeps, with its sparsity."""
    return next(iter(explaining(weight)), PatternSpec("unstructured"))


def detect(weights: Mapping[str, Tensor]) -> PatternSpec:
    """The tightest pattern that every sparse weight keeps; dense where none is sparse."""
    sparse = [w for w in weights.values() if not is_dense(w) and int(w.count_nonzero())]
    found = joint([(shape_of(weight), explaining(weight)) for weight in sparse])
    return found or DENSE


def joint(layers: Sequence[tuple[Shape, Sequence[PatternSpec]]]) -> PatternSpec | None:
    """The tightest of the patterns that explain every layer, given what explains each one.

    The sparsity of block, ovw and unstructured is the one from which all layers' kept counts
    follow; unstructured layers of different sparsities give a specification without one. None
    where nothing explains them all.
    """
    by_family = [(shape, {spec.family: spec for spec in found}) for shape, found in layers]
    common = set.intersection(*(set(found) for _, found in by_family)) if by_family else set()
    carried = {family: [(found[family], shape) for shape, found in by_family] for family in common}
    best = min(carried.values(), key=_rank, default=None)
    return None if best is None else _joint_sparsity(best)


def majority(layers: Sequence[tuple[Shape, Sequence[PatternSpec]]]) -> PatternSpec | None:
    """The pattern that explains most layers, of equals the tightest; unstructured does not count.

    What breaks it in the others can then be named. None where no pattern explains any.
    """
    carried: dict[str, list[tuple[PatternSpec, Shape]]] = {}
    for shape, found in layers:
        for spec in {spec.family: spec for spec in found if spec.name != "unstructured"}.values():
            carried.setdefault(spec.family, []).append((spec, shape))
    best = min(carried.values(), key=lambda held: (-len(held), _rank(held)), default=None)
    return None if best is None else _joint_sparsity(best)


def _rank(layers: list[tuple[PatternSpec, Shape]]) -> tuple[float, int, int, str]:
    patterns = [(BUILT_IN[spec.name](spec), shape) for spec, shape in layers]
    return (
        round(sum(pattern.freedom(shape) for pattern, shape in patterns), 6),
        sum(pattern.padding(shape) for pattern, shape in patterns),
        len(layers[0][0].parameters),
        layers[0][0].family,
    )


def _joint_sparsity(layers: list[tuple[PatternSpec, Shape]]) -> PatternSpec:
    """One specification for all layers: the roundest sparsity that gives every layer its count."""
    first = layers[0][0]
    own = {spec.sparsity for spec, _ in layers if spec.sparsity is not None}
    if not own:
        return first
    for candidate in (*ROUND, *sorted(own, reverse=True)):
        if all(_same_count(spec, candidate, shape) for spec, shape in layers):
            return PatternSpec(first.name, first.parameters, candidate)
    lowest = None if first.name == "unstructured" else min(own)
    return PatternSpec(first.name, first.parameters, lowest)


def _same_count(spec: PatternSpec, candidate: float, shape: Shape) -> bool:
    """Whether both sparsities keep the same number of units in a weight of this shape."""
    pattern = BUILT_IN[spec.name](spec)
    other = BUILT_IN[spec.name](PatternSpec(spec.name, spec.parameters, candidate))
    return pattern.kept_units(shape) == other.kept_units(shape)

"""A whole network's weights under one pattern: what is sparsified, what stays dense and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from csbench.core.pattern import PatternSpec, parse
from csbench.core.record import Sparsity
from csbench.errors import PatternError
from csbench.sparse.layout import Shape, shape_of
from csbench.sparse.patterns import Verdict, explaining, for_spec, is_dense
from csbench.sparse.patterns.detect import DENSE, joint, majority
from csbench.sparse.statedict import classifier
from csbench.sparse.threads import one_thread

IMAGE_CHANNELS = 4  # a convolution of fewer or as many channels reads the image

# For every layer the specification that it carries, or the reason why it stays dense.
Plan = dict[str, PatternSpec | str]
# For every layer the patterns that explain its zeros, the tightest first.
Explained = Mapping[str, Sequence[PatternSpec]]


@dataclass(frozen=True)
class Policy:
    """Which layers of a network a pattern is applied to.

    The stem, depthwise convolutions and layers that the pattern cannot divide stay dense, and so
    does the classifier unless `classifier` is set. Everything but convolutions and linear layers
    (batch norm, biases) is left alone.
    """

    classifier: bool = False

    def why_dense(self, name: str, weight: Tensor, last: str | None) -> str | None:
        """The reason that holds under any pattern; None where the pattern decides."""
        _, cin, kh, kw = shape_of(weight)
        if cin == 1 and kh * kw > 1:
            return "depthwise, or one input channel"
        if weight.ndim == 4 and cin <= IMAGE_CHANNELS and kh * kw > 1:
            return f"the stem: {cin} input channels"
        return "the classifier" if name == last and not self.classifier else None


def layers_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of convolutions [Cout, Cin, kh, kw] and linear layers [out, in], by layer name."""
    return {
        key.removesuffix("weight").removesuffix("."): value
        for key, value in state.items()
        if key.split(".")[-1] == "weight" and value.ndim in (2, 4) and value.is_floating_point()
    }


def plan(state: Mapping[str, Tensor], spec: PatternSpec, policy: Policy | None = None) -> Plan:
    """What every layer carries under a specification, read from names and shapes alone."""
    policy = policy or Policy()
    spec = _resolved(spec)
    pattern = for_spec(spec)
    last = classifier(state)
    found: Plan = {}
    for name, weight in layers_of(state).items():
        reason = policy.why_dense(name, weight, last) or pattern.why_not(shape_of(weight))
        found[name] = spec if reason is None else reason
    return found


@one_thread()
def sparsify_state(
    state: Mapping[str, Tensor], spec: PatternSpec, policy: Policy | None = None
) -> tuple[dict[str, Tensor], Plan]:
    """The state dict with every layer that can carry the pattern pruned by magnitude.

    `spec` states its sparsity, itself or by its parameters. Raises PatternError where no layer
    can carry it. The input is left as it is; tensors that stay alike are shared.
    """
    if spec.own_sparsity is None:
        raise PatternError(f"pattern '{spec}' needs a sparsity; type for example {spec}@75%")
    layers, pattern = plan(state, spec, policy), for_spec(spec)
    if not any(isinstance(found, PatternSpec) for found in layers.values()):
        raise PatternError(_none_can(spec, layers))
    pruned = dict(state)
    for name, found in layers.items():
        if isinstance(found, PatternSpec):
            key = f"{name}.weight" if name else "weight"
            pruned[key] = torch.where(pattern.mask(state[key]), state[key], 0)
    return pruned, layers


def verify_state(
    state: Mapping[str, Tensor], spec: PatternSpec, policy: Policy | None = None
) -> Plan:
    """What every layer carries, all of them checked; raises PatternError at the first broken one.

    A specification without a sparsity or parameters (`block`, `cs`) takes those that the zeros
    show. A layer without zeros breaks any pattern above sparsity 0: it was not pruned.
    """
    layers, broken = check_state(state, filled_in(state, spec, policy), policy)
    if broken:
        raise PatternError(describe_broken(broken))
    return layers


@one_thread()
def check_state(
    state: Mapping[str, Tensor], spec: PatternSpec, policy: Policy | None = None
) -> tuple[Plan, dict[str, Verdict]]:
    """What every layer carries, and the verdicts on those that break it."""
    layers, pattern = plan(state, spec, policy), for_spec(spec)
    weights = layers_of(state)
    carrying = [name for name, found in layers.items() if isinstance(found, PatternSpec)]
    verdicts = {name: pattern.verify(weights[name]) for name in carrying}
    return layers, {name: verdict for name, verdict in verdicts.items() if not verdict.ok}


def describe_broken(broken: Mapping[str, Verdict]) -> str:
    """One line: the first layer that breaks the pattern, where, and how many others do."""
    name, verdict = next(iter(broken.items()))
    more = f" ({len(broken) - 1} more layers break it)" if len(broken) > 1 else ""
    return f"layer {name}: {verdict.describe()}{more}"


@one_thread()
def explain_state(state: Mapping[str, Tensor]) -> Explained:
    """Every layer's patterns, the tightest first; the costly part of detection."""
    return {name: explaining(weight) for name, weight in layers_of(state).items()}


def detect_state(
    state: Mapping[str, Tensor],
    policy: Policy | None = None,
    hint: str | None = None,
    explained: Explained | None = None,
) -> tuple[PatternSpec, Plan]:
    """The tightest pattern that all sparse layers keep, and what every layer carries.

    `hint` is the pattern in a checkpoint's metadata: it is taken when it holds, because zeros alone
    cannot tell shfl-bw from ovw. A layer without zeros stays dense; a classifier that was pruned
    all the same carries the pattern.
    """
    explained = explain_state(state) if explained is None else explained
    weights = layers_of(state)
    spec = _hinted(state, policy, hint)
    if spec is None:
        spec = joint(_sparse_ones(weights, explained, plan(state, DENSE, policy))) or DENSE
    layers = plan(state, spec, policy)
    for name, weight in weights.items():
        pruned = not is_dense(weight)
        if not pruned and isinstance(layers[name], PatternSpec) and spec != DENSE:
            layers[name] = "it has no zeros"
        elif pruned and layers[name] == "the classifier" and _keeps(weight, spec):
            layers[name] = _resolved(spec)
    return spec, layers


def most_carry(
    state: Mapping[str, Tensor], policy: Policy | None, explained: Explained
) -> PatternSpec | None:
    """The pattern of at least half of the sparse layers, unstructured aside; else None."""
    sparse = _sparse_ones(layers_of(state), explained, plan(state, DENSE, policy))
    spec = majority(sparse)
    if spec is None:
        return None
    carrying = sum(any(s.family == spec.family for s in found) for _, found in sparse)
    return spec if 2 * carrying >= len(sparse) else None


def filled_in(
    state: Mapping[str, Tensor],
    spec: PatternSpec,
    policy: Policy | None = None,
    explained: Explained | None = None,
) -> PatternSpec:
    """The specification with the parameters and the sparsity that most layers' zeros show.

    Left alone where it states them; raises PatternError where the checkpoint is dense.
    """
    if spec.own_sparsity is not None:
        return spec
    for_spec(spec)  # a name that nobody knows is said before any work
    explained = explain_state(state) if explained is None else explained
    sparse = _sparse_ones(layers_of(state), explained, plan(state, DENSE, policy))
    if not sparse:
        raise PatternError(
            f"no layer keeps {spec}: the checkpoint is dense; prune it with "
            f"csbench sparsify FILE --pattern {spec} --sparsity 75% -o OUT"
        )
    unit = "ovw" if spec.name == "shfl-bw" else spec.name  # of the same zeros
    fitting = [
        (shape, [s for s in found if s.name == unit and spec.parameters in ((), s.parameters)])
        for shape, found in sparse
    ]
    found = joint(fitting) or majority(fitting)
    return spec if found is None else PatternSpec(spec.name, found.parameters, found.sparsity)


def sparsities(state: Mapping[str, Tensor], layers: Plan) -> Sparsity:
    """The share of zeros in the layers that carry the pattern, and in all conv and linear weights.

    Both are counted in the weights themselves, 0 where there are no such layers.
    """
    weights = layers_of(state)
    carrying = [w for name, w in weights.items() if isinstance(layers.get(name), PatternSpec)]
    return Sparsity(_zeros(carrying), _zeros(list(weights.values())))


def _zeros(weights: list[Tensor]) -> float:
    total = sum(w.numel() for w in weights)
    return 1 - sum(int(w.count_nonzero()) for w in weights) / total if total else 0.0


def _hinted(
    state: Mapping[str, Tensor], policy: Policy | None, hint: str | None
) -> PatternSpec | None:
    if hint is None:
        return None
    try:
        spec = parse(hint)
        verify_state(state, spec, policy)
    except PatternError:
        return None  # metadata is a claim; what the zeros say counts
    return spec


def _sparse_ones(
    weights: Mapping[str, Tensor], explained: Explained, eligible: Plan
) -> list[tuple[Shape, Sequence[PatternSpec]]]:
    """Shape and patterns of the layers with zeros, among those that may carry a pattern."""
    return [
        (shape_of(weight), explained[name])
        for name, weight in weights.items()
        if isinstance(eligible[name], PatternSpec)
        and not is_dense(weight)
        and int(weight.count_nonzero())
    ]


def _resolved(spec: PatternSpec) -> PatternSpec:
    """With every parameter filled in, where the sparsity is known."""
    return spec if spec.own_sparsity is None else spec.at(spec.own_sparsity)


def _keeps(weight: Tensor, spec: PatternSpec) -> bool:
    pattern = for_spec(spec)
    return pattern.why_not(shape_of(weight)) is None and pattern.verify(weight).ok


def _none_can(spec: PatternSpec, layers: Plan) -> str:
    name, reason = next(iter(layers.items()), ("", "there are no convolution or linear weights"))
    return f"no layer can carry {spec}: {name + ': ' if name else ''}{reason}"

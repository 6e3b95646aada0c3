"""What a checkpoint holds, layer by layer: the contents of `csbench inspect`."""

from __future__ import annotations

import msgspec

from csbench.core.pattern import PatternSpec
from csbench.core.record import Sparsity
from csbench.sparse.checkpoint import Checkpoint
from csbench.sparse.layout import shape_of
from csbench.sparse.network import (
    Plan,
    Policy,
    check_state,
    describe_broken,
    detect_state,
    explain_state,
    filled_in,
    layers_of,
    most_carry,
    sparsities,
)
from csbench.sparse.patterns import Verdict, for_spec, sparsity


class LayerInspection(msgspec.Struct, frozen=True, kw_only=True):
    """One convolution or linear layer.

    `pattern` is the tightest that its zeros keep; `reason` says why the layer does not carry the
    network's pattern (None where it does). `violations` and the coordinates `first` are against the
    network's pattern, `padding` the weights that its packed grid adds.
    """

    name: str
    shape: tuple[int, ...]
    sparsity: float
    pattern: str
    reason: str | None = None
    violations: int = 0
    first: tuple[tuple[int, ...], ...] = ()
    padding: int = 0


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """A whole checkpoint; `broken` is one line on the first layer that breaks `pattern`."""

    path: str
    sha256: str
    metadata: dict[str, str]
    pattern: str
    sparsity: Sparsity
    broken: str | None
    layers: tuple[LayerInspection, ...]


def inspect(
    checkpoint: Checkpoint, spec: PatternSpec | None = None, policy: Policy | None = None
) -> Inspection:
    """Read the pattern from the zeros, or check the one given, in every layer.

    Without `spec`, a pattern that at least half of the sparse layers keep is reported and checked
    in the others, so that a single stray weight is found; below half, what all layers keep.
    """
    state = checkpoint.state_dict
    explained = explain_state(state)
    if spec is None:
        spec, layers = detect_state(state, policy, checkpoint.metadata.get("pattern"), explained)
        stray = most_carry(state, policy, explained) if spec.name == "unstructured" else None
        spec = stray or spec
        broken: dict[str, Verdict] = {}
        if stray is not None:
            layers, broken = check_state(state, stray, policy)
    else:
        spec = filled_in(state, spec, policy, explained)
        layers, broken = check_state(state, spec, policy)
    tightest = {name: found[0].family for name, found in explained.items() if found}
    return Inspection(
        path=str(checkpoint.path),
        sha256=checkpoint.sha256,
        metadata=checkpoint.metadata,
        pattern=str(spec),
        sparsity=sparsities(state, layers),
        broken=describe_broken(broken) if broken else None,
        layers=_layers(checkpoint, spec, layers, broken, tightest),
    )


def _layers(
    checkpoint: Checkpoint, spec: PatternSpec, layers: Plan, broken: dict[str, Verdict],
    tightest: dict[str, str],
) -> tuple[LayerInspection, ...]:  # fmt: skip
    pattern = for_spec(spec)
    found = []
    for name, weight in layers_of(checkpoint.state_dict).items():
        carried, verdict = layers[name], broken.get(name)
        carries = isinstance(carried, PatternSpec)
        found.append(
            LayerInspection(
                name=name,
                shape=tuple(weight.shape),
                sparsity=sparsity(weight),
                pattern=tightest.get(name, "unstructured"),
                reason=carried if isinstance(carried, str) else None,
                violations=verdict.violations if verdict else 0,
                first=verdict.first if verdict else (),
                padding=pattern.padding(shape_of(weight)) if carries else 0,
            )
        )
    return tuple(found)

"""From a sweep to its cases: every name checked and every default filled in (in a worker)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch

from csbench import models
from csbench.backends import registry
from csbench.bench.network import runs_sparse
from csbench.bench.support import family, not_here
from csbench.bench.weights import Library, found_pattern
from csbench.core.axes import MODELS, ImageSize, Sweep, specifications
from csbench.core.case import NO_BACKEND, Case, CheckpointRef
from csbench.core.pattern import PatternSpec
from csbench.errors import PatternError, UsageError
from csbench.graph.program import distinct
from csbench.sparse import checkpoint as checkpoints
from csbench.sparse import network
from csbench.sparse.patterns import for_spec


def plan(sweep: Sweep, device: str, library: Library) -> list[Case]:
    """The cases of a sweep on "cpu" or "cuda", in the order in which least is built twice.

    Raises UsageError (and its kinds) for what cannot be: a wrong name, a checkpoint that does not
    fit or breaks its pattern, a sparsity that the pattern cannot give. What only this device or
    this model cannot do is a case all the same: its record says why.
    """
    for name in (*sweep.backend, *sweep.baseline):
        registry.get(name)
    baselines = sweep.baseline or (registry.dense_baseline(device),)
    cases: dict[str, Case] = {}
    for model, source in product(sweep.model, _sources(sweep, library)):
        carried = _carried(sweep, model, source, library)
        images = _images(sweep, model)
        for image, dtype, batch in product(images, sweep.dtype, sweep.batch):
            for spec, baseline in product(carried, baselines):
                for backend in _backends(sweep, spec, device, dtype):
                    whole = Case(
                        model=model, pattern=spec.family, sparsity=spec.sparsity or 0.0,
                        backend=backend, baseline=baseline, device=device, dtype=dtype,
                        batch=batch, input=image, checkpoint=source,
                    )  # fmt: skip
                    cases |= {case.key: case for case in _tasks(sweep, whole, library)}
    return list(cases.values())


def _images(sweep: Sweep, model: str) -> tuple[ImageSize, ...]:
    """The image sizes asked for, or the model's own; their channels are the model's."""
    own = models.default_input(model)
    for image in sweep.input:
        if image[0] != own[0] and model in MODELS:
            wanted = "x".join(str(n) for n in (own[0], *image[1:]))
            raise UsageError(
                f"input size '{'x'.join(str(n) for n in image)}' has {image[0]} channels, "
                f"{model} takes {own[0]}; type --input-size {wanted}"
            )
    return sweep.input or (own,)


def _sources(sweep: Sweep, library: Library) -> list[CheckpointRef]:
    if not sweep.checkpoint:
        return [CheckpointRef(seed=seed) for seed in sweep.seed]
    if sweep.sparsity:
        raise UsageError(
            "a checkpoint has the sparsity that it has; leave --sparsity out, "
            "or leave --checkpoint out to measure synthetic weights"
        )
    return [
        CheckpointRef(path=path, sha256=library.checkpoint(path).sha256)
        for path in sweep.checkpoint
    ]


def _carried(
    sweep: Sweep, model: str, source: CheckpointRef, library: Library
) -> list[PatternSpec]:
    """Patterns with parameters and sparsity filled in: of a checkpoint what it holds."""
    patterns = sweep.pattern or (None,)
    if source.path is not None:
        _check_fits(model, source.path, library)
        return [_stored(pattern, source.path, library) for pattern in patterns]
    wanted = [specifications(pattern or "dense", sweep.sparsity) for pattern in patterns]
    with torch.device("meta"):  # names and shapes are enough
        state = models.resolve(model)().state_dict()
    specs = [spec for of_one in wanted for spec in of_one]
    for spec in specs:
        for_spec(spec)  # raises for a name that nobody provides
    reasons = [_not_carried(model, spec, network.plan(state, spec)) for spec in specs]
    if None not in reasons:
        raise PatternError(reasons[0])
    return specs


def _not_carried(model: str, spec: PatternSpec, layers: network.Plan) -> str | None:
    """Why no layer of a model carries a pattern; None where one does."""
    if any(isinstance(found, PatternSpec) for found in layers.values()):
        return None
    reason = next(iter(layers.values()), "there are no convolutions")
    return f"no layer of {model} can carry {spec}: {reason}"


def _check_fits(model: str, path: str, library: Library) -> None:
    stored = library.checkpoint(path)
    checkpoints.fit(stored, models.build(model, num_classes=stored.classes), model)


def _stored(pattern: str | None, path: str, library: Library) -> PatternSpec:
    state = library.checkpoint(path).state_dict
    spec, layers = found_pattern(library.checkpoint(path), pattern)
    if pattern is not None and spec.sparsity is not None:
        # A weight of 75 % keeps block@50% too: the row is of what is there, not of what was named.
        spec = network.filled_in(state, PatternSpec(spec.name, spec.parameters))
    if spec.own_sparsity is not None:
        return spec.at(spec.own_sparsity)
    measured = round(network.sparsities(state, layers).layers, 6)
    return PatternSpec(spec.name, spec.parameters, measured)


def _backends(sweep: Sweep, spec: PatternSpec, device: str, dtype: str) -> tuple[str, ...]:
    """Those asked for, else those that run the pattern here, else those that run it elsewhere."""
    here = sweep.backend or registry.for_pattern(spec.name, device, dtype)
    return here or tuple(registry.of_pattern(spec.name)) or (NO_BACKEND,)


def _tasks(sweep: Sweep, whole: Case, library: Library) -> Iterator[Case]:
    for task in sweep.task:
        if task == "infer" or not _runs_here(whole):
            yield whole  # of a backend that is not for this device one row says so
        else:
            yield from _layers(whole, library)


def _runs_here(case: Case) -> bool:
    return case.backend != NO_BACKEND and not_here(registry.get(case.backend), case) is None


def _layers(whole: Case, library: Library) -> Iterator[Case]:
    """A case for each distinct convolution that carries the pattern; for dense backends for all."""
    everything = not runs_sparse(registry.get(whole.backend), family(whole))
    for alike in distinct(library.sparse(whole).program.convolutions).values():
        if everything or alike[0].pattern is not None:
            yield Case(
                task="layer", layer=alike[0].name, model=whole.model, pattern=whole.pattern,
                sparsity=whole.sparsity, backend=whole.backend, baseline=whole.baseline,
                device=whole.device, dtype=whole.dtype, batch=whole.batch, input=whole.input,
                checkpoint=whole.checkpoint,
            )  # fmt: skip

"""From a case to its weights: a dense and a pruned network as programs, built once and kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from msgspec.structs import replace
from torch import nn

from csbench import models
from csbench.core.case import Case
from csbench.core.pattern import PatternSpec, parse
from csbench.core.record import LayerReport, Sparsity
from csbench.graph import Program, attach, trace
from csbench.sparse import checkpoint as checkpoints
from csbench.sparse import network as patterns
from csbench.sparse.checkpoint import Checkpoint

_KEPT_BYTES = 4 << 30  # forty of ResNet50


@dataclass(frozen=True, eq=False)
class Weights:
    """A network with its patterns, both sparsities, and why layers without a pattern stay dense.

    `mask_ms` is what finding the masks and pruning took when this was made; None where it was not.
    """

    program: Program
    sparsity: Sparsity
    reasons: dict[str, str] = field(default_factory=dict)
    mask_ms: float | None = None

    @property
    def bytes(self) -> int:
        """What the weights take in memory."""
        return sum(4 * conv.weight.numel() for conv in self.program.convolutions)

    def explain(self, layers: tuple[LayerReport, ...]) -> tuple[LayerReport, ...]:
        """The reports with the reason why a layer carries no pattern, where that is why."""
        carrying = {conv.name for conv in self.program.convolutions if conv.pattern is not None}
        return tuple(
            replace(layer, reason=self.reasons.get(layer.name, layer.reason))
            if layer.ran == "dense" and layer.name not in carrying
            else layer
            for layer in layers
        )


class Library:
    """Programs of this process, as far as they fit, and the last checkpoint.

    The cases of a suite come back to the same network in other precisions and batches, and finding
    the rows of some patterns takes seconds.
    """

    def __init__(self) -> None:
        self._checkpoint: tuple[Hashable, Checkpoint] | None = None
        self._kept: dict[Hashable, Weights] = {}  # the one used longest ago comes first

    def checkpoint(self, path: str) -> Checkpoint:
        """A checkpoint file; read again when it has changed."""
        stat = Path(path).stat() if Path(path).is_file() else None
        key = (path, stat and (stat.st_mtime_ns, stat.st_size))
        if self._checkpoint is None or self._checkpoint[0] != key:
            self._checkpoint = (key, checkpoints.load(path))
        return self._checkpoint[1]

    def dense(self, case: Case) -> Weights:
        """The network without its pattern: synthetic weights unpruned, a checkpoint's as is."""
        key = (case.model, case.input, case.checkpoint)
        if case.checkpoint.path is not None:
            whole = self.sparse(case)
            return Weights(attach(whole.program, {}), whole.sparsity)
        return self._keep(key, lambda: self._synthetic(case, PatternSpec("dense")))

    def sparse(self, case: Case) -> Weights:
        """The network with the case's pattern on every layer that can carry it."""
        key = (case.model, case.input, case.checkpoint, case.pattern, case.sparsity)
        if case.checkpoint.path is not None:
            return self._keep(key, lambda: self._stored(case))
        spec = parse(case.pattern).at(case.sparsity)
        if spec.name == "dense":
            return self.dense(case)
        return self._keep(key, lambda: self._synthetic(case, spec))

    def _keep(self, key: Hashable, make: Callable[[], Weights]) -> Weights:
        weights = self._kept.pop(key, None) or make()
        self._kept[key] = weights
        room = _KEPT_BYTES
        for old in reversed(list(self._kept)):
            room -= self._kept[old].bytes
            if room < 0 and old != key:
                del self._kept[old]
        return weights

    @torch.no_grad()
    def _synthetic(self, case: Case, spec: PatternSpec) -> Weights:
        seed = case.checkpoint.seed or 0
        model = models.build(case.model, seed=seed)
        state = model.state_dict()
        layers: patterns.Plan = patterns.plan(state, spec)
        mask_ms = None
        if spec.name != "dense":
            begun = time.perf_counter()
            state, layers = patterns.sparsify_state(state, spec)
            mask_ms = (time.perf_counter() - begun) * 1e3
            model.load_state_dict(state)
        # Statistics of random weights must fit the weights that are left, or activations explode.
        models.calibrate(model, case.input, seed)
        return _weights(case, model, layers, mask_ms)

    @torch.no_grad()
    def _stored(self, case: Case) -> Weights:
        assert case.checkpoint.path is not None
        stored = self.checkpoint(case.checkpoint.path)
        model = models.build(case.model, num_classes=stored.classes)
        checkpoints.fit(stored, model, case.model)
        _, layers = found_pattern(stored, case.pattern)
        return _weights(case, model, layers)


def found_pattern(stored: Checkpoint, pattern: str | None) -> tuple[PatternSpec, patterns.Plan]:
    """What a checkpoint carries: the pattern given, verified, or else the one detected.

    Raises PatternError with the place where the given pattern is broken.
    """
    if pattern is None:
        return patterns.detect_state(stored.state_dict, hint=stored.metadata.get("pattern"))
    spec = parse(pattern)
    layers = patterns.verify_state(stored.state_dict, spec)
    carried = next((found for found in layers.values() if isinstance(found, PatternSpec)), spec)
    return carried, layers


def _weights(
    case: Case, model: nn.Module, layers: patterns.Plan, mask_ms: float | None = None
) -> Weights:
    sparsity = patterns.sparsities(model.state_dict(), layers)
    program = trace(model, case.input, case.model)
    known = {conv.name for conv in program.convolutions}
    carried = {
        name: found
        for name, found in layers.items()
        if isinstance(found, PatternSpec) and found.name != "dense" and name in known
    }
    reasons = {name: found for name, found in layers.items() if isinstance(found, str)}
    return Weights(attach(program, carried), sparsity, reasons, mask_ms)

"""A lowered network or layer beside its dense baseline: what must hold around its timing."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from csbench.backends.base import Backend
from csbench.bench import copies
from csbench.bench.baseline import Baseline
from csbench.bench.capture import Replay
from csbench.bench.check import Gate
from csbench.bench.clocks import Clock
from csbench.bench.draft import Draft, Outcome
from csbench.bench.sampling import remembers
from csbench.bench.subject import Lowered, Subject
from csbench.core.record import LayerReport


@dataclass(frozen=True, eq=False)
class Contest:
    """A lowered subject and what it is compared with."""

    subject: Subject
    backend: Backend
    lowered: Lowered
    baseline: Baseline
    clock: Clock

    def proved(self, draft: Draft, gate: Gate, lowered: Lowered) -> Replay:
        """What is timed of a lowered subject; raises Outcome("wrong") where its output is."""
        seed = draft.settings.seed
        draft.checked(gate.poisoned(lambda x: lowered.run(*x), seed))
        replay = self.subject.replay(lowered, seed)
        for check in gate.replayed(replay, seed):
            draft.checked(check)
        return replay

    def copy(self, draft: Draft, gate: Gate, runs: list[Replay]) -> None:
        """More copies of the baseline, which later cases share, and as many of the subject."""
        stop, baseline = draft.settings.stop, self.baseline
        wanted = copies.wanted(stop, draft.case.device)
        copies.grow(baseline.copies, baseline.again, wanted, stop.max_time)

        def again() -> Replay:
            lowered = self.subject.lower(self.backend, baseline.backend, draft.case)
            return self.proved(draft, gate, lowered)

        copies.grow(runs, again, min(wanted, len(baseline.copies)), stop.max_time)

    def insist_on_work(self, run: Replay, seed: int) -> None:
        """A run that looks up what it once computed was not timed; raises Outcome("wrong").

        A graph cannot look anything up: it does the same work whatever its inputs hold.
        """
        seeds = itertools.count(seed + 2000)

        def renew() -> None:
            run.renew(self.subject.reference.inputs(next(seeds)))

        if run.mode == "eager" and remembers(self.clock, run, renew):
            reason = "results are remembered: new inputs take far longer than seen ones"
            raise Outcome("wrong", reason)


def insist_on_sparse(backend: Backend, layers: Sequence[LayerReport], subject: Subject) -> None:
    """A sparse backend that ran no layer sparsely has nothing to show: Outcome("unsupported")."""
    if any(layer.ran == "sparse" for layer in layers):
        return
    carrying = {conv.name for conv in subject.convolutions if conv.pattern is not None}
    reasons = Counter(layer.reason for layer in layers if layer.name in carrying)
    usual = reasons.most_common(1)[0][0] if reasons else "no layer carries the pattern"
    raise Outcome("unsupported", f"{backend.name} ran no layer sparse: {usual}")

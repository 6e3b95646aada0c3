"""The strongest dense version of a subject: lowered, proved and kept while cases share it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import NamedTuple

from msgspec.structs import replace

from csbench.backends import registry
from csbench.backends.base import Backend
from csbench.bench.capture import Replay
from csbench.bench.check import Gate, passed
from csbench.bench.clocks import Clock
from csbench.bench.sampling import sample_alone
from csbench.bench.subject import Subject
from csbench.bench.weights import Library
from csbench.core.case import Case
from csbench.core.statistics import median
from csbench.errors import BackendError

# Dense ways beside the baseline are side figures: a few samples of each, in the case's precision
# and in the halves, which are the fastest. On a GPU bf16 takes fp16's time within 1 %, or more, and
# preparing a network takes seconds.
_SAMPLES = 10
_HALVES = {"cpu": ("fp16", "bf16"), "cuda": ("fp16",)}


class Ways(NamedTuple):
    """Samples of dense ways of a workload by their names ("cudnn fp16"); why others have none."""

    samples_ms: dict[str, tuple[float, ...]]
    left_out: dict[str, str]


@dataclass(frozen=True, eq=False)
class Baseline:
    """A dense subject, ready to be timed beside a sparse one, and the other ways to run it."""

    backend: Backend
    copies: list[Replay]  # one at first; those that a case adds serve the next one too
    again: Callable[[], Replay]  # makes one more
    ways: Ways

    def time_ms(self, clock: Clock) -> float:
        """What it takes alone."""
        return median(sample_alone(clock, self.copies[0], _SAMPLES))


class Baselines:
    """The last baseline of this process, because the next case mostly needs the same; and the
    times of dense ways for every workload, which outlive it."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._kept: tuple[Hashable, Baseline] | None = None
        self._ways: dict[Hashable, Ways] = {}

    def get(self, case: Case, clock: Clock, seed: int, rtol: float | None) -> Baseline:
        """The case's baseline; raises BackendError where it cannot run or is not right."""
        dense = replace(case, backend=case.baseline, pattern="dense", sparsity=0.0)
        key = (dense.key, rtol)
        if self._kept is None or self._kept[0] != key:
            self._kept = None  # free the old one before the new one is made
            self._kept = (key, self._make(dense, clock, seed, rtol))
        return self._kept[1]

    def drop(self) -> None:
        """Free the memory that the baseline holds."""
        self._kept = None

    def _make(self, case: Case, clock: Clock, seed: int, rtol: float | None) -> Baseline:
        backend = registry.get(case.backend)
        subject = Subject(self._library.dense(case), case)

        def again() -> Replay:
            try:
                return _proved(subject, backend, backend, case, seed, rtol)
            except BackendError as error:
                raise BackendError(f"baseline {case.baseline}: {error}") from None

        first = again()
        if case.task != "infer":
            return Baseline(backend, [first], again, Ways({}, {}))
        workload = replace(case, dtype="").key  # in any precision
        known = self._ways.setdefault(workload, Ways({}, {}))
        self._extend(known, case, backend, first, clock, seed)
        ways = Ways(dict(known.samples_ms), dict(known.left_out))
        return Baseline(backend, [first], again, ways)

    def _extend(
        self, ways: Ways, case: Case, baseline: Backend, own: Replay, clock: Clock, seed: int
    ) -> None:
        """Time each dense way that is not known yet, alone, where it gives the right result."""
        others = [name for name in registry.DENSE_ALTERNATIVES[case.device] if name != case.backend]
        backends = {case.backend: baseline} | {name: registry.get(name) for name in others}

        def sample(backend: Backend, subject: Subject) -> tuple[float, ...]:
            same = backend is baseline and subject.case == case
            run = own if same else _proved(subject, backend, baseline, subject.case, seed, None)
            return tuple(sample_alone(clock, run, _SAMPLES))

        for dtype in dict.fromkeys((case.dtype, *_HALVES[case.device])):
            other = replace(case, dtype=dtype)
            subject = Subject(self._library.dense(other), other)
            for name, backend in backends.items():
                way = f"{name} {dtype}"
                known = way in ways.samples_ms or way in ways.left_out
                if known or dtype not in registry.dtypes(backend, case.device):
                    continue
                try:
                    ways.samples_ms[way] = sample(backend, subject)
                except Exception as error:  # a side figure must not end the case
                    reason = str(error).strip().splitlines() or [type(error).__name__]
                    ways.left_out[way] = reason[0]
                gc.collect()  # a network and its graphs hold each other; the next needs the room


def _proved(
    subject: Subject, backend: Backend, fallback: Backend, case: Case, seed: int, rtol: float | None
) -> Replay:
    """What is timed of a dense subject; raises BackendError where it does not run or is wrong."""
    if (missing := backend.missing(case.device)) is not None:
        raise BackendError(missing)
    lowered = subject.lower(backend, fallback, case)
    replay = subject.replay(lowered, seed)
    gate = Gate(subject.reference, rtol)
    poisoned = gate.poisoned(lambda inputs: lowered.run(*inputs), seed)
    for found in (poisoned, *gate.replayed(replay, seed)):
        if not passed(found):
            off, limit = found.relative_error, found.tolerance
            raise BackendError(f"wrong: relative error {off:.1e}, allowed {limit:.1e}")
    return replay

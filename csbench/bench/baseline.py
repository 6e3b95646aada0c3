"""The strongest dense version of a subject: lowered, proved and kept while cases share it."""

from __future__ import annotations

from collections.abc import Hashable
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

# The best dense time of any precision is a side figure: a few samples of each candidate.
_SAMPLES = 10
_PRECISIONS = ("fp32", "tf32", "fp16", "bf16")


class Best(NamedTuple):
    """The best dense time of any precision, and which it was."""

    milliseconds: float
    name: str


@dataclass(frozen=True, eq=False)
class Baseline:
    """A dense subject, ready to be timed beside a sparse one."""

    backend: Backend
    replay: Replay
    best: Best | None


class Baselines:
    """The last baseline of this process; the next case mostly needs the same."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._kept: tuple[Hashable, Baseline] | None = None

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
        replay, problem = _proved(subject, backend, case, seed, rtol)
        if problem is not None or replay is None:
            raise BackendError(f"baseline {case.baseline}: {problem}")
        best = self._best(case, backend, replay, clock, seed) if case.task == "infer" else None
        return Baseline(backend, replay, best)

    def _best(self, case: Case, backend: Backend, own: Replay, clock: Clock, seed: int) -> Best:
        """The best of the baseline's precisions, those that give the right result in theirs."""
        times = [Best(median(sample_alone(clock, own, _SAMPLES)), f"{case.backend} {case.dtype}")]
        for dtype in _PRECISIONS:
            if dtype == case.dtype or dtype not in registry.dtypes(backend, case.device):
                continue
            other = replace(case, dtype=dtype)
            subject = Subject(self._library.dense(other), other)
            replay, problem = _proved(subject, backend, other, seed, None)
            if replay is not None and problem is None:
                time = median(sample_alone(clock, replay, _SAMPLES))
                times.append(Best(time, f"{case.backend} {dtype}"))
        return min(times)


def _proved(
    subject: Subject, backend: Backend, case: Case, seed: int, rtol: float | None
) -> tuple[Replay | None, str | None]:
    """What is timed of a dense subject, or why it cannot be."""
    if (missing := backend.missing(case.device)) is not None:
        return None, missing
    if case.device not in backend.devices or case.dtype not in registry.dtypes(
        backend, case.device
    ):
        return None, f"{backend.name} does not run {case.dtype} on {case.device}"
    try:
        lowered = subject.lower(backend, backend, case)
        replay = subject.replay(lowered, seed)
    except BackendError as error:
        return None, str(error)
    found = Gate(subject.reference, rtol).poisoned(lambda inputs: lowered.run(*inputs), seed)
    if not passed(found):
        off, limit = found.relative_error, found.tolerance
        return replay, f"wrong: relative error {off:.1e}, allowed {limit:.1e}"
    return replay, None

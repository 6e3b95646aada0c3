"""Dense ways of a workload: every dense time that the records hold, by backend and precision."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

from csbench.core.record import Record
from csbench.core.statistics import interval, middle


class Way(NamedTuple):
    """A dense way by its name (`cudnn fp16`), its precision and its time; no samples in old
    records. `beside` are a few samples on one copy, out of turn: a side figure of a record."""

    name: str
    dtype: str
    time_ms: float
    samples_ms: Sequence[float] = ()
    copies: int = 1  # that the samples were taken on in turn
    beside: bool = False

    def interval(self) -> tuple[float, float] | tuple[None, None]:
        """95 % interval of the time."""
        return interval(self.samples_ms, self.copies) if self.samples_ms else (None, None)


class DenseWays:
    """Dense times of every workload: baselines, what was measured beside them, and rows of dense
    networks: those at sparsity 0, by whatever backend. Of several times of one way the soundest
    count, and of those the middle one."""

    def __init__(self) -> None:
        self._found: dict[Hashable, dict[str, list[Way]]] = {}

    def add(self, workload: Hashable, record: Record) -> None:
        """All dense times of one record."""
        named = self._found.setdefault(workload, {})
        for way in _ways(record):
            named.setdefault(way.name, []).append(way)

    def of(self, workload: Hashable) -> tuple[Way, ...]:
        """The ways of a workload, the fastest first."""
        found = map(_middle, self._found.get(workload, {}).values())
        return tuple(sorted(found, key=lambda way: way.time_ms))


def baseline_way(record: Record) -> str:
    """The name of a record's baseline among the ways."""
    return f"{record.case.baseline} {record.case.dtype}"


def own_way(record: Record) -> str | None:
    """The name under which a record's own time is a dense way; None at any other sparsity."""
    case = record.case
    if case.sparsity:
        return None
    return f"{case.backend} {case.dtype}{'' if case.pattern == 'dense' else ' at 0 %'}"


def _ways(record: Record) -> Iterator[Way]:
    measured, dtype = record.measurement, record.case.dtype
    if measured is None:
        return
    paired = baseline_way(record) if measured.baseline_samples_ms else None
    for name, taken in measured.dense_samples_ms.items():
        if name != paired:  # the pairs are more samples of the same way
            yield Way(name, name.rpartition(" ")[2], middle(taken), taken, beside=True)
    if paired:
        yield _way(paired, dtype, measured.baseline_samples_ms, measured.copies)
    if (own := own_way(record)) is not None:
        yield _way(own, dtype, measured.samples_ms, measured.copies)
    if measured.dense_best and measured.dense_best_ms:
        name = measured.dense_best
        yield Way(name, name.rpartition(" ")[2], measured.dense_best_ms)


def _way(name: str, dtype: str, samples_ms: Sequence[float], copies: int = 1) -> Way:
    return Way(name, dtype, middle(samples_ms, copies), samples_ms, copies)


def _middle(times: Sequence[Way]) -> Way:
    """The middle of the soundest times of one way, so that no lucky run becomes the bar.

    Cases of one suite repeat the side figures of their dense network: equal samples count once.
    Rows and baselines were timed in turn, on several copies: where there are any, side figures do
    not count. Of two in the middle the faster one stands, in favour of dense.
    """
    distinct = {tuple(time.samples_ms) or time.time_ms: time for time in times}.values()
    best = max(map(_soundness, distinct))
    sound = sorted((t for t in distinct if _soundness(t) == best), key=lambda t: t.time_ms)
    return sound[(len(sound) - 1) // 2]


def _soundness(way: Way) -> tuple[bool, bool, bool]:
    """Samples over none, those of pairs over side figures, several copies over one."""
    return (bool(way.samples_ms), not way.beside, way.copies > 1)

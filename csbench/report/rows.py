"""Records as rows of derived numbers: times, and the speed-ups that a record alone cannot know."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from csbench.core.case import Case
from csbench.core.record import Record
from csbench.core.statistics import interval, median, speedup

CARRY_A_TIME = ("ok", "noisy")  # an invalid, wrong or failed row has none that counts


class Estimate(NamedTuple):
    """A number and its 95 % interval; no interval where it is 1 by definition."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Row:
    """One record with what is derived from it and from the records beside it.

    `speedup` is against the named baseline, sampled in pairs; `over_own` against the same backend
    at 0 % (the paper's definition); `over_best` against the best dense time of any precision.
    """

    record: Record
    device: str  # the GPU's name, or the CPU's with its number of threads
    time_ms: Estimate | None = None
    speedup: Estimate | None = None
    over_own: Estimate | None = None
    over_best: Estimate | None = None
    best_dense: str | None = None

    @property
    def case(self) -> Case:
        return self.record.case

    @property
    def pattern(self) -> str:
        """The pattern's name without parameters: `block` of `block:32x32`."""
        return self.case.pattern.partition(":")[0]

    @property
    def sparse_layers(self) -> tuple[int, int] | None:
        """How many layers ran sparse, and how many there are; None when nothing was lowered."""
        layers = self.record.layers
        return (sum(layer.ran == "sparse" for layer in layers), len(layers)) if layers else None

    @property
    def weight_bytes(self) -> int | None:
        """Bytes of all weights as stored, indices included."""
        return sum(layer.bytes for layer in self.record.layers) or None


def rows(records: Iterable[Record]) -> list[Row]:
    """A row a case, in the order first seen; of records with one key the last sound one counts."""
    kept = latest(records)
    devices = device_names(kept)
    bare = [Row(record, devices[record.key], _time(record)) for record in kept]
    timed = [row for row in bare if row.time_ms is not None]
    pool = _Dense(timed)
    own = {_own_key(row): row for row in timed if row.case.sparsity == 0}
    return [
        _compared(row, own.get(_own_key(row)) or own.get(_own_key(row, "dense")), pool)
        for row in bare
    ]


def latest(records: Iterable[Record]) -> list[Record]:
    """One record a key: the last one with status ok, or the last one where none is."""
    kept: dict[str, Record] = {}
    for record in records:
        held = kept.get(record.key)
        if held is None or record.status == "ok" or held.status != "ok":
            kept[record.key] = record
    return list(kept.values())


def device_names(records: Iterable[Record]) -> dict[str, str]:
    """By key of a record, the GPU's name, or the CPU's with its number of threads.

    A case that died before it could say gets the name that others on that device have.
    """
    own = {record.key: (record.case.device, _device_name(record)) for record in records}
    known = {device: name for device, name in own.values() if name}
    return {key: name or known.get(device, device) for key, (device, name) in own.items()}


def _device_name(record: Record) -> str | None:
    env = record.env
    if record.case.device.startswith("cuda"):
        return env.get("gpu")
    return f"{env.get('cpu', 'CPU')}, {env['threads']} threads" if "threads" in env else None


def _compared(row: Row, own: Row | None, pool: _Dense) -> Row:
    time, measured = row.time_ms, row.record.measurement
    if time is None or measured is None:
        return row
    paired = None
    if measured.baseline_samples_ms:
        paired = Estimate(*speedup(measured.samples_ms, measured.baseline_samples_ms))
    over_own = None
    if own is not None and own.time_ms is not None:
        over_own = Estimate(1.0) if own.record is row.record else ratio(own.time_ms, time)
    best = pool.best(row)
    over_best = None
    if best is not None:
        # Where the baseline is the best dense way, its pairs say more than two separate times.
        is_baseline = paired is not None and best.name == pool.name(row.case)
        over_best = paired if is_baseline else ratio(best.estimate(), time)
    return replace(
        row,
        speedup=paired,
        over_own=over_own,
        over_best=over_best,
        best_dense=best.name if best else None,
    )


def _time(record: Record) -> Estimate | None:
    if record.status not in CARRY_A_TIME or record.measurement is None:
        return None
    samples = record.measurement.samples_ms
    return Estimate(median(samples), *interval(samples)) if samples else None


def ratio(reference: Estimate, time: Estimate) -> Estimate:
    """Reference over time, both measured apart, with an interval from theirs.

    On a logarithmic scale the two distances to an end add in squares (Donner and Zou, Closed-form
    confidence intervals for functions of the normal mean and standard deviation, 2012).
    """
    value = reference.value / time.value

    def reach(up: float | None, down: float | None) -> float:
        above = math.log(up / reference.value) if up else 0.0
        below = math.log(time.value / down) if down else 0.0
        return math.hypot(above, below)

    return Estimate(
        value,
        value * math.exp(-reach(reference.low, time.high)),
        value * math.exp(reach(reference.high, time.low)),
    )


def _own_key(row: Row, pattern: str | None = None) -> tuple[object, ...]:
    """What a case and its own 0 % row have in common; that row's pattern may be `dense`."""
    return (*_workload(row), row.case.dtype, row.case.backend, pattern or row.pattern)


def _workload(row: Row) -> tuple[object, ...]:
    case = row.case
    return (case.task, case.model, case.layer, row.device, case.batch, case.input)


class _DenseTime(NamedTuple):
    name: str
    median_ms: float
    samples_ms: Sequence[float] = ()

    def estimate(self) -> Estimate:
        ends = interval(self.samples_ms) if self.samples_ms else (None, None)
        return Estimate(self.median_ms, *ends)


class _Dense:
    """Dense times of every workload, by backend and precision: `cudnn fp16`."""

    def __init__(self, timed: Iterable[Row]) -> None:
        self._found: dict[tuple[object, ...], dict[str, list[_DenseTime]]] = {}
        for row in timed:
            measured = row.record.measurement
            if measured is None:
                continue
            samples = measured.baseline_samples_ms
            if samples:
                self._add(row, _DenseTime(self.name(row.case), median(samples), samples))
            if measured.dense_best and measured.dense_best_ms:
                self._add(row, _DenseTime(measured.dense_best, measured.dense_best_ms))

    def _add(self, row: Row, time: _DenseTime) -> None:
        named = self._found.setdefault(_workload(row), {})
        named.setdefault(time.name, []).append(time)

    @staticmethod
    def name(case: Case) -> str:
        return f"{case.baseline} {case.dtype}"

    def best(self, row: Row) -> _DenseTime | None:
        """The fastest dense way of this workload in any precision."""
        named = self._found.get(_workload(row), {}).values()
        return min(map(_middle, named), key=lambda t: t.median_ms, default=None)


def _middle(times: Sequence[_DenseTime]) -> _DenseTime:
    """Of several times of one way the middle one, so that no lucky run becomes the bar."""
    sampled = [time for time in times if time.samples_ms] or times
    return sorted(sampled, key=lambda t: t.median_ms)[len(sampled) // 2]

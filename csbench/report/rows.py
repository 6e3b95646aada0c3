"""Records as rows of derived numbers: times, and the speed-ups that a record alone cannot know."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from csbench.core.case import Case
from csbench.core.record import Record
from csbench.core.statistics import interval, middle, speedup
from csbench.report.dense import DenseWays, Way, baseline_way, own_way

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
    at 0 % (the paper's definition); `over_best` against the best dense time of any precision, and
    `over_best_same` against the best of the row's own. `dense` holds all dense ways of the row's
    workload, the fastest first.
    """

    record: Record
    device: str  # the GPU's name, or the CPU's with its number of threads
    time_ms: Estimate | None = None
    speedup: Estimate | None = None
    over_own: Estimate | None = None
    over_best_same: Estimate | None = None
    over_best: Estimate | None = None
    dense: tuple[Way, ...] = ()

    @property
    def case(self) -> Case:
        return self.record.case

    @property
    def pattern(self) -> str:
        """The pattern's name without parameters: `block` of `block:32x32`."""
        return self.case.pattern.partition(":")[0]

    @property
    def best_dense(self) -> str | None:
        """The fastest dense way of any precision: `cudnn fp16`."""
        return self.dense[0].name if self.dense else None

    @property
    def best_dense_same(self) -> str | None:
        """The fastest dense way of the row's own precision."""
        return next((way.name for way in self.dense if way.dtype == self.case.dtype), None)

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
    ways = DenseWays()
    for row in timed:
        ways.add(workload(row), row.record)
    own = {_own_key(row): row for row in timed if row.case.sparsity == 0}
    return [
        _compared(row, own.get(_own_key(row)) or own.get(_own_key(row, "dense")), ways)
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


def _compared(row: Row, own: Row | None, ways: DenseWays) -> Row:
    time, measured = row.time_ms, row.record.measurement
    if time is None or measured is None:
        return row
    paired = None
    if measured.baseline_samples_ms:
        paired = Estimate(
            *speedup(measured.samples_ms, measured.baseline_samples_ms, measured.copies)
        )
    over_own = None
    if own is not None and own.time_ms is not None:
        over_own = Estimate(1.0) if own.record is row.record else ratio(own.time_ms, time)
    row = replace(row, speedup=paired, over_own=over_own, dense=ways.of(workload(row)))
    same = (way for way in row.dense if way.dtype == row.case.dtype)
    return replace(
        row,
        over_best_same=_over(row, time, next(same, None)),
        over_best=_over(row, time, row.dense[0] if row.dense else None),
    )


def _over(row: Row, time: Estimate, best: Way | None) -> Estimate | None:
    """The speed-up over a dense way."""
    if best is None:
        return None
    if best.name == own_way(row.record) and _is_of(best, row.record):
        return Estimate(1.0)
    # Where the baseline is the best dense way, its pairs say more than two separate times.
    if row.speedup is not None and best.name == baseline_way(row.record):
        return row.speedup
    return ratio(Estimate(best.time_ms, *best.interval()), time)


def _is_of(way: Way, record: Record) -> bool:
    """Whether a way's time is that of this very record, and no other run of the same."""
    measured = record.measurement
    return measured is not None and way.samples_ms == measured.samples_ms


def _time(record: Record) -> Estimate | None:
    if record.status not in CARRY_A_TIME or record.measurement is None:
        return None
    samples, copies = record.measurement.samples_ms, record.measurement.copies
    return Estimate(middle(samples, copies), *interval(samples, copies)) if samples else None


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
    return (*workload(row), row.case.dtype, row.case.backend, pattern or row.pattern)


def workload(row: Row) -> tuple[object, ...]:
    """What a row and the dense ways that it competes with have in common."""
    case = row.case
    return (case.task, case.model, case.layer, row.device, case.batch, case.input)

"""Training records as derived numbers: hours, overhead, parts of a step, the self-check."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from csbench.core import projection
from csbench.core.statistics import median, speedup
from csbench.core.training import PhaseReport, TrainingReport, TrainSettings
from csbench.report.rows import CARRY_A_TIME, Estimate, Row, ratio


@dataclass(frozen=True)
class Trained:
    """A row of task "train-step" with what was asked for; `report` None where nothing came out."""

    row: Row
    asked: TrainSettings
    report: TrainingReport | None

    @property
    def scheme(self) -> str:
        return self.row.case.backend

    @property
    def setting(self) -> tuple[object, ...]:
        """What two rows must share for their hours to be compared."""
        case, asked = self.row.case, self.asked
        return (
            case.model, asked.dataset, asked.data, self.row.device, case.batch, case.dtype,
            case.input, asked.ranks, asked.channels_last, asked.compile,
        )  # fmt: skip

    @property
    def probed(self) -> TrainingReport | None:
        """The report of a probe whose times count."""
        found = self.report if self.row.record.status in CARRY_A_TIME else None
        return found if found is not None and found.phases else None

    @cached_property
    def hours(self) -> Estimate | None:
        """Projected hours of the whole schedule."""
        found = projection.hours(self.probed) if self.probed else None
        return None if found is None else Estimate(*found)

    @property
    def hours_an_epoch(self) -> Estimate | None:
        hours = self.hours
        return None if hours is None else scaled(hours, 1 / self.asked.epochs)

    @property
    def step_ms(self) -> Estimate | None:
        """The median time of a step, in the phase with the most of them."""
        return self.row.time_ms

    @property
    def overhead(self) -> Estimate | None:
        """A step's time over that of the dense one in turn, minus 1, weighted over the phases."""
        probed = self.probed
        if probed is None:
            return None
        found = [(phase.steps, _cost(phase)) for phase in probed.phases if phase.dense_samples_ms]
        steps = sum(count for count, _ in found)
        ends = (sum(n * cost[i] for n, cost in found) / steps - 1 for i in range(3))
        return Estimate(*ends) if steps else None

    @property
    def split_ms(self) -> dict[str, float]:
        """Mean milliseconds of a step's parts, weighted over the phases."""
        probed = self.probed
        if probed is None:
            return {}
        steps = sum(phase.steps for phase in probed.phases)
        found: dict[str, float] = {}
        for phase in probed.phases:
            for part, samples in phase.split.items():
                found[part] = found.get(part, 0.0) + phase.steps / steps * median(samples)
        return found

    @property
    def events_ms(self) -> float | None:
        """Milliseconds a step of mask updates and searches, spread over the schedule."""
        probed = self.probed
        if probed is None:
            return None
        steps = sum(phase.steps for phase in probed.phases)
        events = [e for e in probed.events if e.name != "validation batch"]
        return sum(e.count * sum(e.samples_ms) / len(e.samples_ms) for e in events) / steps

    @property
    def error(self) -> float | None:
        """The self-check: predicted over measured time of the held-out window, minus 1."""
        return projection.held_out_error(self.probed) if self.probed else None

    @property
    def flops(self) -> float | None:
        return projection.flops_ratio(self.report) if self.report else None


def trained(rows: Iterable[Row]) -> list[Trained]:
    """The training rows, in order; records of other tasks are left out."""
    return [
        Trained(row, row.case.training, report if isinstance(report, TrainingReport) else None)
        for row in rows
        if row.case.task == "train-step" and isinstance(row.case.training, TrainSettings)
        for report in (row.record.training,)
    ]


def beside(one: Trained, others: Sequence[Trained], scheme: str) -> Trained | None:
    """The row of a scheme in the same setting."""
    return next((o for o in others if o.scheme == scheme and o.setting == one.setting), None)


def over_nm(one: Trained, others: Sequence[Trained]) -> Estimate | None:
    """Hours over those of N:M in the same setting, at equal epochs; the published ratio's kin."""
    nm = beside(one, others, "nm")
    if nm is None or one.hours_an_epoch is None or nm.hours_an_epoch is None:
        return None
    return Estimate(1.0) if nm is one else ratio(one.hours_an_epoch, nm.hours_an_epoch)


def scaled(estimate: Estimate, by: float) -> Estimate:
    """A number and its interval, times a factor."""
    return Estimate(*(None if end is None else by * end for end in estimate))  # type: ignore[arg-type]


def _cost(phase: PhaseReport) -> tuple[float, float, float]:
    """A phase's step over the dense one, with the interval of the pairs."""
    faster = speedup(phase.samples_ms, phase.dense_samples_ms)
    return 1 / faster.ratio, 1 / faster.high, 1 / faster.low

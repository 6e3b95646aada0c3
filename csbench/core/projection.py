"""From samples of a probe to the hours of the whole schedule, with the interval carried through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from csbench.core.training import TrainingReport

if TYPE_CHECKING:
    from numpy import ndarray

CONFIDENCE = 0.95
RESAMPLES = 1000
SEED = 20230623
_MS_PER_HOUR = 3.6e6


class Projected(NamedTuple):
    """A total and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


class Part(NamedTuple):
    """`times` times something that took `samples_ms` when it was timed."""

    times: float
    samples_ms: Sequence[float]


def parts(report: TrainingReport) -> list[Part]:
    """Everything that the projection adds up: phases of steps, then events."""
    steps = [Part(phase.steps, phase.samples_ms) for phase in report.phases]
    return steps + [Part(event.count, event.samples_ms) for event in report.events]


def hours(report: TrainingReport) -> Projected | None:
    """Projected hours of the whole schedule; None where nothing was timed.

    Steps add up, so the mean counts, not the median: a slow step costs what it costs.
    """
    found = total(parts(report))
    return None if found is None else Projected(*(end / _MS_PER_HOUR for end in found))


def dense_hours(report: TrainingReport) -> Projected | None:
    """The same schedule with the dense steps of the same run: what the scheme would cost less."""
    steps = [Part(p.steps, p.dense_samples_ms) for p in report.phases]
    kept = [Part(e.count, e.samples_ms) for e in report.events if e.name == "validation batch"]
    found = total(steps + kept)
    return None if found is None else Projected(*(end / _MS_PER_HOUR for end in found))


def total(added: Sequence[Part]) -> Projected | None:
    """Milliseconds of all parts, each resampled on its own; None where a part has no sample."""
    counted = [part for part in added if part.times]
    if not counted or not all(part.samples_ms for part in counted):
        return None
    import numpy as np

    drawn = np.zeros(RESAMPLES)
    value = 0.0
    for i, part in enumerate(counted):
        samples = np.array(part.samples_ms, dtype=np.float64)
        value += part.times * float(samples.mean())
        drawn += part.times * _resampled_means(samples, SEED + i)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, (tail, 1 - tail))
    return Projected(value, min(float(low), value), max(float(high), value))


def _resampled_means(samples: ndarray, seed: int) -> ndarray:
    import numpy as np

    chosen = np.random.default_rng(seed).integers(0, len(samples), (RESAMPLES, len(samples)))
    means: ndarray = samples[chosen].mean(axis=1)
    return means


def held_out_error(report: TrainingReport) -> float | None:
    """Predicted over measured time of the held-out window, minus 1; None where there is none."""
    held = report.held_out
    if held is None:
        return None
    phase = next(p for p in report.phases if p.name == held.phase)
    updates = [Part(held.events, e.samples_ms) for e in report.events if e.name == "mask update"]
    predicted = total([Part(held.steps, phase.samples_ms), *updates])
    return None if predicted is None else predicted.value / held.measured_ms - 1


def flops_ratio(report: TrainingReport) -> float | None:
    """Theoretical training FLOPs of the schedule over those of dense training."""
    if report.flops is None or not report.phases:
        return None
    all_steps = sum(phase.steps for phase in report.phases)
    sparse = report.flops.sparsified_step
    rest = report.flops.dense_step - sparse
    # The straight-through gradient is dense: of forward, input and weight gradient two are sparse.
    dense_third = 1 / 3 if report.recipe.decay else 0.0
    done = sum(
        p.steps * (rest + sparse * (dense_third + (1 - dense_third) * p.density))
        for p in report.phases
    )
    return done / (all_steps * report.flops.dense_step)

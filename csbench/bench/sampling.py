"""Interleaved pairs: a run and its baseline in turn, until the speed-up is known well enough."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from csbench.bench.clocks import Clock, Run
from csbench.core.statistics import Speedup, speedup
from csbench.core.stop import StopRule

# A sample shorter than this drowns in the clock's own steps and in the cost of reading it.
SHORTEST_SAMPLE_MS = 5.0
# An interval from fewer pairs says little; below this number the verdict is `noisy`.
FEWEST_PAIRS = 10
# Pairs taken even when one pair outlives the time limit.
_LEAST_PAIRS = 3
# The interval is looked at after 10, 13, 16, 20, 25, ... pairs: looking costs time too. What ending
# at the first narrow one does to its coverage: tests/bench/coverage.py, docs/measurement.md.
_NEXT_LOOK = 1.2
_MOST_COUNT = 1 << 20
# Pairs of a seen and a new input, and what writing an input may cost the run after it (its caches,
# sleeping threads).
_RENEWALS = 8
_RENEWAL_COST_MS = 0.2


class Pairs(NamedTuple):
    """Samples in the order taken; a span is the (start, end) of a pair on the clock, in seconds."""

    samples_ms: tuple[float, ...]
    baseline_samples_ms: tuple[float, ...]
    spans: tuple[tuple[float, float], ...]
    settled: bool  # the interval became narrow enough
    copies: int = 1

    @property
    def speedup(self) -> Speedup:
        return speedup(self.samples_ms, self.baseline_samples_ms, self.copies)


Progress = Callable[[float, float], None]  # share of the time spent, half-width so far


def sample_pairs(
    clock: Clock,
    runs: Sequence[Run],
    baselines: Sequence[Run],
    stop: StopRule,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Pairs:
    """Time a network and its baseline in turn by the stop rule, each on one copy after another.

    A slow drift of the machine hits both alike: of every two pairs one starts with each, in an
    order drawn from `seed`. Both come in as many copies.
    """
    if set(runs) & set(baselines):
        raise ValueError("a run cannot be its own baseline; lower it twice")
    sides, copies = (runs, baselines), len(runs)
    for side in sides:  # the copies in turn, as they are sampled, and none is left cold
        for i in range(stop.warmup and max(stop.warmup, copies)):
            side[i % copies]()
    counts = [calibrate(clock, side[0]) for side in sides]
    taken: tuple[list[float], list[float]] = ([], [])
    spans: list[tuple[float, float]] = []
    begun, look, half_width = clock.now(), FEWEST_PAIRS, math.inf
    for order in _orders(seed):
        start, turn = clock.now(), len(spans) % copies
        for one in order:
            taken[one].append(clock.sample(sides[one][turn], counts[one]))
        spans.append((start, clock.now()))
        done, spent = len(spans), clock.now() - begun
        last = done == stop.runs or (spent >= stop.max_time and done >= _LEAST_PAIRS)
        if last or (done >= look and spent >= stop.min_time):
            half_width = speedup(*taken, copies).half_width
            look = int(done * _NEXT_LOOK) + 1
        if progress is not None:
            progress(_share(stop, done, spent), half_width)
        settled = half_width < stop.max_noise and done >= min(
            FEWEST_PAIRS, stop.runs or FEWEST_PAIRS
        )
        if last or (settled and stop.runs is None):
            break
    return Pairs(tuple(taken[0]), tuple(taken[1]), tuple(spans), settled, copies)


def sample_alone(clock: Clock, run: Run, count: int, warmup: int = 2) -> list[float]:
    """`count` samples of one run on its own, in milliseconds."""
    for _ in range(warmup):
        run()
    repeats = calibrate(clock, run)
    return [clock.sample(run, repeats) for _ in range(count)]


def remembers(clock: Clock, run: Run, renew: Callable[[], object]) -> bool:
    """Whether a run takes far longer on new inputs than on inputs that it has seen.

    `renew` writes new inputs for the next run. Then results were kept from run to run, and the
    samples are times of looking them up. One pair that says otherwise settles it, so that noise
    accuses nobody.
    """
    for _ in range(_RENEWALS):
        seen = clock.sample(run, 1)
        renew()
        if clock.sample(run, 1) <= 2 * seen + _RENEWAL_COST_MS:
            return False
    return True


def calibrate(clock: Clock, run: Run) -> int:
    """How many runs make one sample long enough to time."""
    count = 1
    while (spent := clock.sample(run, count) * count) < SHORTEST_SAMPLE_MS:
        if count >= _MOST_COUNT:
            break
        # Aim a little above what the last sample promises, but trust it no further than 16 times.
        wanted = 1.2 * count * SHORTEST_SAMPLE_MS / max(spent, 1e-9)
        count = min(max(int(wanted), count + 1), 16 * count, _MOST_COUNT)
    return count


def _orders(seed: int) -> Iterator[tuple[int, int]]:
    """Orders within pairs without end: of every two pairs one starts with each, in drawn order."""
    draw = random.Random(seed)
    while True:
        yield from draw.sample([(0, 1), (1, 0)], 2)


def _share(stop: StopRule, done: int, spent: float) -> float:
    share = spent / stop.max_time if stop.runs is None else done / stop.runs
    return min(1.0, share)

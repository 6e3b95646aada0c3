"""How often the interval holds the truth when sampling ends at a look of its own choosing.

`python -m tests.bench.coverage` prints the table of docs/measurement.md; it takes some minutes.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from itertools import count
from statistics import median
from typing import NamedTuple

from csbench.bench.clocks import ScriptedClock
from csbench.bench.sampling import sample_pairs
from csbench.core.stop import StopRule

_MILLISECONDS = 10.0  # long enough that a sample is one run
_MOST_PAIRS_SECONDS = 6.0  # of the invented clock: 300 pairs


class Coverage(NamedTuple):
    """Shares of all trials, and pairs of the middle one."""

    settled: float
    held: float  # of those that settled: the interval holds the true ratio
    held_all: float  # of all, those that ran out of time too
    pairs: float


class _Copy:
    """One copy of a network; it only has to be told apart."""

    def __call__(self) -> None: ...


def coverage(
    apart: float, spread: float, target: float, trials: int, *, copies: int = 3, seed: int = 0
) -> Coverage:
    """Of a network as fast as its baseline: copies scatter by `apart`, samples by `spread`."""
    stop = StopRule(warmup=0, min_time=1e-9, max_time=_MOST_PAIRS_SECONDS, max_noise=target)
    settled, held, pairs = [], [], []
    for trial in range(trials):
        draw = random.Random(f"{seed} {apart} {spread} {target} {trial}")
        sides = [[_Copy() for _ in range(copies)] for _ in range(2)]
        clock = ScriptedClock({run: _times(draw, apart, spread) for side in sides for run in side})
        taken = sample_pairs(clock, sides[0], sides[1], stop, seed=trial)
        found = taken.speedup
        settled.append(taken.settled)
        held.append(found.low <= 1 <= found.high)
        pairs.append(len(taken.spans))
    among = [h for h, s in zip(held, settled, strict=True) if s]
    return Coverage(
        len(among) / trials, sum(among) / max(len(among), 1), sum(held) / trials, median(pairs)
    )


def _times(draw: random.Random, apart: float, spread: float) -> Iterator[float]:
    own = _MILLISECONDS * (1 + draw.gauss(0, apart))
    return (own * (1 + draw.gauss(0, spread)) for _ in count())


def main() -> None:
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    print("apart spread target settled held held_all pairs")
    for target in (0.01, 0.005):
        for apart in (0.0013, 0.002):
            for spread in (0.005, 0.01, 0.02):
                found = coverage(apart, spread, target, trials)
                print(
                    f"{apart:.2%} {spread:.1%} {target:.1%} {found.settled:.1%} {found.held:.1%} "
                    f"{found.held_all:.1%} {found.pairs:g}",
                    flush=True,
                )


if __name__ == "__main__":
    main()

"""Statistics derived from raw samples: medians, the speed-up and its 95 % interval, a verdict."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from numpy import ndarray

Verdict = Literal["faster", "slower", "undecided"]

CONFIDENCE = 0.95
SEED = 20230623
# Enough resamples that the interval's ends are steady, few enough that a report of 200 records
# takes a fraction of a second: the work of one interval stays near constant as samples grow.
_MOST_RESAMPLES = 1000
_FEWEST_RESAMPLES = 200
_WORK = 80_000
_KEPT_COUNTS = 256
# Student's t for a 95 % interval, by degrees of freedom from 1; beyond them the last holds.
_STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120,
)  # fmt: skip


class Speedup(NamedTuple):
    """Ratio of the baseline's median time to the other's: above 1 is faster than the baseline."""

    ratio: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the interval's width, relative to the ratio: 0.01 means +- 1 %."""
        return (self.high - self.low) / (2 * self.ratio)

    @property
    def verdict(self) -> Verdict:
        """Faster or slower only when the whole interval lies on one side of 1."""
        if self.low > 1:
            return "faster"
        return "slower" if self.high < 1 else "undecided"


def median(samples: Sequence[float]) -> float:
    """The median; raises ValueError when there are no samples."""
    if not samples:
        raise ValueError("no samples")
    return float(statistics.median(samples))


def mad(samples: Sequence[float]) -> float:
    """Median absolute deviation from the median, in the samples' unit (not scaled to sigma)."""
    middle = median(samples)
    return median([abs(value - middle) for value in samples])


def middle(samples_ms: Sequence[float], copies: int = 1) -> float:
    """The geometric mean of the copies' medians; of one copy its median.

    Sample i was taken on copy i mod `copies` of what was timed.
    """
    return _mean(_medians(samples_ms, copies))


def speedup(samples_ms: Sequence[float], baseline_ms: Sequence[float], copies: int = 1) -> Speedup:
    """Ratio of the middles, baseline over samples, with its 95 % interval.

    Sample i of both was taken as one pair, so pairs are resampled (bootstrap): what slows both
    slows neither against the other. Copies of one network differ by where their memory lies,
    which samples of one of them do not show: with several copies the interval is no narrower than
    Student's over their medians. The same samples always give the same interval.
    """
    if len(samples_ms) != len(baseline_ms) or not samples_ms:
        raise ValueError(f"{len(samples_ms)} samples and {len(baseline_ms)} are not pairs")
    top, bottom = _medians(baseline_ms, copies), _medians(samples_ms, copies)
    resampled = _resampled_shares(baseline_ms, top) / _resampled_shares(samples_ms, bottom)
    ratio = _mean(top) / _mean(bottom)
    return Speedup(ratio, *_around(ratio, resampled, top, bottom))


def interval(samples_ms: Sequence[float], copies: int = 1) -> tuple[float, float]:
    """95 % interval of the middle of one row of samples, found as that of a speed-up."""
    medians = _medians(samples_ms, copies)
    return _around(_mean(medians), _resampled_shares(samples_ms, medians), medians)


def _medians(samples_ms: Sequence[float], copies: int) -> list[float]:
    """Each copy's median."""
    if not all(math.isfinite(value) and value > 0 for value in samples_ms):
        raise ValueError("a time is not a positive number")
    used = min(copies, len(samples_ms))
    return [median(samples_ms[k::used]) for k in range(used)]


def _mean(medians: Sequence[float]) -> float:
    return medians[0] if len(medians) == 1 else statistics.geometric_mean(medians)


def _around(value: float, resampled: ndarray, *rows: Sequence[float]) -> tuple[float, float]:
    """The interval of a value: the wider of what resampling says and what copies say.

    `resampled` are bootstrap replicates as shares of the value; `rows` the copies' medians of each
    network that the value is made of.
    """
    import numpy as np

    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, (tail, 1 - tail))
    between = _student(rows)
    # The value itself always lies inside, even when a handful of samples makes quantiles coarse.
    below, above = max(between, -math.log(min(low, 1))), max(between, math.log(max(high, 1)))
    return value * math.exp(-below), value * math.exp(above)


def _student(rows: Sequence[Sequence[float]]) -> float:
    """Half the 95 % interval, on a logarithmic scale, of means of so many copies; 0 for one."""
    freedom = sum(len(row) - 1 for row in rows)
    if not freedom:
        return 0.0
    squares = (statistics.variance(map(math.log, row)) / len(row) for row in rows)
    return _STUDENT[min(freedom, len(_STUDENT)) - 1] * math.sqrt(sum(squares))


def _resampled_shares(samples_ms: Sequence[float], medians: Sequence[float]) -> ndarray:
    """Medians of bootstrap resamples, each sample as a share of its own copy's median."""
    import numpy as np

    values = np.array(samples_ms, dtype=np.float64)
    return _resampled_medians(values / np.resize(np.array(medians), len(values)))


def _resampled_medians(values: ndarray) -> ndarray:
    """The median of each bootstrap resample of `values`, `[resamples]`.

    A resample is how often each value was drawn; summed in order of the values, those counts pass
    the middle at the median. This needs no sort per resample.
    """
    import numpy as np

    n = len(values)
    order = np.argsort(values, kind="stable")
    counts = _counts(n)
    drawn = np.cumsum(counts[order], axis=0, dtype=counts.dtype)
    ordered = values[order]

    def at_rank(rank: int) -> ndarray:
        found: ndarray = ordered[(drawn < rank).sum(axis=0, dtype=counts.dtype)]
        return found

    lower = at_rank((n + 1) // 2)
    return lower if n % 2 else (lower + at_rank(n // 2 + 1)) / 2


@lru_cache(maxsize=_KEPT_COUNTS)
def _counts(n: int) -> ndarray:
    """How often each of n values is drawn, `[n, resamples]`: once for each n, for every record."""
    import numpy as np

    resamples = max(_FEWEST_RESAMPLES, min(_MOST_RESAMPLES, _WORK // n))
    drawn = np.random.default_rng(SEED + n).integers(0, n, (resamples, n))
    cells = drawn * resamples + np.arange(resamples)[:, None]
    counts = np.bincount(cells.ravel(), minlength=n * resamples).reshape(n, resamples)
    return counts.astype(np.uint16 if n < 2**16 else np.uint32)

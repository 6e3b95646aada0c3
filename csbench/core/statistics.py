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
# Two copies of one network differ in time by where their memory lies: on an H200 captures of the
# same ResNet50 lay up to 0.38 % apart, with a standard deviation of 0.13 %. However many samples,
# a ratio of two networks is no surer than this (1.96 * sqrt(2) * 0.13 %).
PLACEMENT = 0.0036
SEED = 20230623
# Enough resamples that the interval's ends are steady, few enough that a report of 200 records
# takes a fraction of a second: the work of one interval stays near constant as samples grow.
_MOST_RESAMPLES = 1000
_FEWEST_RESAMPLES = 200
_WORK = 80_000
_KEPT_COUNTS = 256


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


def speedup(samples_ms: Sequence[float], baseline_ms: Sequence[float]) -> Speedup:
    """Ratio of medians, baseline over samples, with its 95 % interval.

    Sample i of both was taken as one pair, so pairs are resampled (bootstrap): what slows both
    slows neither against the other. The same samples always give the same interval. What samples
    cannot show, PLACEMENT, is added as an independent error.
    """
    import numpy as np

    if len(samples_ms) != len(baseline_ms) or not samples_ms:
        raise ValueError(f"{len(samples_ms)} samples and {len(baseline_ms)} are not pairs")
    top = np.array(baseline_ms, dtype=np.float64)
    bottom = np.array(samples_ms, dtype=np.float64)
    if not all(np.isfinite(row).all() and (row > 0).all() for row in (top, bottom)):
        raise ValueError("a time is not a positive number")
    resampled = _resampled_medians(top) / _resampled_medians(bottom)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, (tail, 1 - tail))
    ratio = median(baseline_ms) / median(samples_ms)
    # The ratio itself always lies inside, even when a handful of samples makes quantiles coarse.
    below, above = math.log(ratio / min(low, ratio)), math.log(max(high, ratio) / ratio)
    return Speedup(
        ratio,
        ratio * math.exp(-math.hypot(below, PLACEMENT)),
        ratio * math.exp(math.hypot(above, PLACEMENT)),
    )


def interval(samples_ms: Sequence[float]) -> tuple[float, float]:
    """95 % bootstrap interval of the median of one row of samples."""
    import numpy as np

    values = np.array(samples_ms, dtype=np.float64)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(_resampled_medians(values), (tail, 1 - tail))
    return float(low), float(high)


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

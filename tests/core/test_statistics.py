"""Statistics of invented samples: known answers, steadiness, and honest verdicts."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csbench.core.statistics import interval, mad, median, middle, speedup

times = st.floats(0.01, 1000, allow_nan=False)
pairs = st.lists(st.tuples(times, times), min_size=1, max_size=40)


def noisy(center: float, spread: float, n: int, seed: int) -> list[float]:
    draw = random.Random(seed)
    return [center * (1 + draw.gauss(0, spread)) for _ in range(n)]


def test_median_and_mad_of_known_rows() -> None:
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert median([4.0, 1.0, 2.0, 3.0]) == 2.5
    assert mad([1.0, 1.0, 2.0, 2.0, 4.0]) == 1.0
    with pytest.raises(ValueError, match="no samples"):
        median([])


def test_speedup_is_the_ratio_of_medians_not_the_median_of_ratios() -> None:
    assert speedup([1.0, 2.0, 4.0], [4.0, 2.0, 12.0]).ratio == 2.0


@given(pairs)
def test_the_interval_holds_the_ratio_and_repeats_exactly(rows: list[tuple[float, float]]) -> None:
    sparse, dense = zip(*rows, strict=True)
    first = speedup(sparse, dense)
    assert 0 < first.low <= first.ratio <= first.high
    assert speedup(sparse, dense) == first


@given(pairs)
def test_medians_agree_with_a_plain_bootstrap(rows: list[tuple[float, float]]) -> None:
    """The counting shortcut gives exactly the medians of the resampled rows."""
    import numpy as np

    from csbench.core import statistics

    values = np.array([a for a, _ in rows])
    n = len(values)
    counts = statistics._counts(n)
    plain = [float(np.median(np.repeat(values, counts[:, i]))) for i in range(0, 200, 37)]
    assert statistics._resampled_medians(values)[0:200:37] == pytest.approx(plain, rel=1e-12)


@pytest.mark.parametrize("n", [10, 31, 100])
def test_the_interval_covers_the_truth_about_95_percent_of_the_time(n: int) -> None:
    trials = 400
    held = sum(
        (s := speedup(noisy(1.0, 0.03, n, 2 * i), noisy(2.0, 0.03, n, 2 * i + 1))).low
        <= 2
        <= s.high
        for i in range(trials)
    )
    assert 0.92 <= held / trials <= 0.99


def copied(
    center: float, apart: float, spread: float, copies: int, n: int, seed: int
) -> list[float]:
    """`n` samples of copies in turn; copies scatter by `apart`, samples of one by `spread`."""
    draw = random.Random(seed)
    own = [1 + draw.gauss(0, apart) for _ in range(copies)]
    return [center * own[i % copies] * (1 + draw.gauss(0, spread)) for i in range(n)]


@pytest.mark.parametrize(
    ("copies", "apart", "spread", "n"),
    [(3, 0.0013, 0.0005, 30), (3, 0.0, 0.01, 60), (8, 0.0075, 0.01, 24), (8, 0.0, 0.03, 100)],
)
def test_the_interval_covers_what_other_copies_would_take(
    copies: int, apart: float, spread: float, n: int
) -> None:
    trials, held, alone = 300, 0, 0
    for i in range(trials):
        rows = [copied(t, apart, spread, copies, n, 2 * i + j) for j, t in enumerate((1.0, 2.0))]
        found = speedup(*rows, copies)
        held += found.low <= 2 <= found.high
        first = speedup(*(row[::copies] for row in rows))
        alone += first.low <= 2 <= first.high
    assert held / trials >= 0.92
    if apart > spread:  # samples of a single copy know too little
        assert alone / trials < 0.6


def test_copies_count_alike_and_a_single_one_by_its_median() -> None:
    assert middle([1.0, 9.0, 1.0, 9.0, 7.0], copies=2) == pytest.approx(3.0)
    assert middle([3.0, 1.0, 2.0], copies=1) == 2.0
    assert middle([4.0, 1.0], copies=8) == pytest.approx(2.0)  # as many as there are samples


def test_copies_that_agree_do_not_widen_an_interval() -> None:
    rows = noisy(1.0, 0.01, 60, 1), noisy(2.0, 0.01, 60, 2)
    assert speedup(*rows, copies=3).half_width < 1.6 * speedup(*rows).half_width


def test_what_slows_both_of_a_pair_does_not_widen_the_interval() -> None:
    drift = [1.0 + 0.5 * (i % 7) for i in range(60)]
    together = speedup(drift, [2 * d for d in drift])
    assert together.half_width < 1e-9


def test_no_number_of_samples_tells_apart_what_differs_by_its_addresses() -> None:
    """Copies on an H200 lay so far apart (parts in ten thousand), samples of one 0.05 %."""
    apart = [0, 17, -6, 21, 4, 9]
    rows = [
        [1.36 * (1 + 1e-4 * copies[i % 3] + 1e-6 * (i % 5)) for i in range(999)]
        for copies in (apart[:3], apart[3:])
    ]
    assert speedup(*rows, copies=3).verdict == "undecided"
    assert speedup(*(row[::3] for row in rows)).verdict == "faster"
    assert speedup(rows[0], [1.02 * t for t in rows[1]], copies=3).verdict == "faster"


def test_verdicts() -> None:
    assert speedup(noisy(1, 0.01, 50, 1), noisy(1.2, 0.01, 50, 2)).verdict == "faster"
    assert speedup(noisy(1.2, 0.01, 50, 1), noisy(1, 0.01, 50, 2)).verdict == "slower"
    assert speedup(noisy(1, 0.05, 50, 5), noisy(1, 0.05, 50, 6)).verdict == "undecided"


def test_outliers_stay_and_hardly_move_the_median() -> None:
    steady = noisy(1, 0.01, 50, 1)
    spiked = [*steady[:-2], 100.0, 100.0]
    assert speedup(spiked, steady).ratio == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0, -1.0])
def test_an_impossible_time_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="not a positive number"):
        speedup([1.0, bad], [1.0, 1.0])


def test_rows_that_are_not_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="not pairs"):
        speedup([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="not pairs"):
        speedup([], [])


def test_more_samples_narrow_the_interval() -> None:
    few = interval(noisy(1, 0.05, 10, 3))
    many = interval(noisy(1, 0.05, 1000, 3))
    assert many[1] - many[0] < (few[1] - few[0]) / 3

"""A search outlives candidates that end, lose or hang the process that tries them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from csbench.errors import BackendError
from csbench.kernels.cusparselt import trial
from csbench.kernels.cusparselt.trial import Trials


@pytest.fixture
def trials() -> Iterator[Trials]:
    made = Trials("tests.backends.nm.dying:main")
    yield made
    made.end()


def test_one_process_tries_all_that_run_and_leaves_out_what_is_refused(trials: Trials) -> None:
    found = trials.tried(["run", "refuse", "run"])
    assert set(found.times) == {"0 run", "2 run"}
    assert (found.crashed, found.why) == ([], "no such plan")
    again = trials.tried(["run", "run"], skip=["0 run"])
    assert list(again.times) == ["1 run"]
    assert len({*found.times.values(), *again.times.values()}) == 1  # one process did it all


@pytest.mark.parametrize("end", ["die", "lose"])
def test_what_follows_a_crash_is_tried_by_another_process(trials: Trials, end: str) -> None:
    found = trials.tried(["run", end, "refuse", end, "run", end])
    assert set(found.times) == {"0 run", "4 run"}
    assert found.crashed == [f"1 {end}", f"3 {end}", f"5 {end}"]
    assert found.times["0 run"] != found.times["4 run"]
    assert len(trials.tried(["run"]).times) == 1


def test_what_hangs_is_as_good_as_dead(trials: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    trials.tried(["run"])  # it has started
    monkeypatch.setattr(trial, "_TIMEOUT", 2)
    assert trials.tried(["hang"]).crashed == ["0 hang"]


def test_a_request_that_cannot_be_tried_says_why(trials: Trials) -> None:
    with pytest.raises(BackendError, match=r"cannot be tried: it knows nothing of this"):
        trials.tried("nothing")
    assert trials.tried(["run"]).times  # the next one can


def test_a_process_that_does_not_start_says_why() -> None:
    missing = Trials("tests.backends.nm.nowhere:main")
    with pytest.raises(BackendError, match=r"No module named 'tests.backends.nm.nowhere'"):
        missing.tried(["run"])


def test_it_can_be_ended_twice_and_starts_again(trials: Trials) -> None:
    (before,) = trials.tried(["run"]).times.values()
    trials.end()
    trials.end()
    (after,) = trials.tried(["run"]).times.values()
    assert before != after

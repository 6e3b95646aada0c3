"""A search outlives candidates that end, lose or hang the process that tries them."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from csbench.errors import BackendError
from csbench.kernels.cusparselt import trial
from csbench.kernels.cusparselt.trial import Trials

ROOT = Path(__file__).parents[3]
HANGING = """
from csbench.kernels.cusparselt.trial import Trials
for words in Trials("tests.backends.nm.dying:main")._answers([["run", "hang"], []]):
    print(*words, flush=True)
"""


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
    found = trials.tried(["hang"])
    assert (found.crashed, found.why) == (["0 hang"], "no answer within 2 s")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems tell no process of that end")
def test_what_hangs_ends_with_the_process_that_asked() -> None:
    command = [sys.executable, "-c", HANGING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as asked:
        assert asked.stdout is not None
        words = [asked.stdout.readline().split() for _ in range(3)]
        assert words[-1] == ["try", "1", "hang"]
        worker = os.pidfd_open(int(float(words[1][-1])))
        asked.send_signal(signal.SIGKILL)
    ended, _, _ = select.select([worker], [], [], 30)
    if not ended:
        signal.pidfd_send_signal(worker, signal.SIGKILL)
    os.close(worker)
    assert ended


def test_answers_that_nobody_heard_are_not_those_of_the_next_request(
    trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(text: bytes) -> object:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(trial.json, "loads", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trials.tried(["run", "run"])
    assert list(trials.tried(["refuse", "run"]).times) == ["1 run"]


def test_a_crash_by_a_signal_is_named(trials: Trials) -> None:
    assert trials.tried(["die"]).why == "killed by SIGKILL"
    assert trials.tried(["lose"]).why == "illegal instruction"


def test_a_request_that_cannot_be_tried_says_why(trials: Trials) -> None:
    trials.tried(["run"])
    process = trials._process
    with pytest.raises(BackendError, match=r"cannot be tried: it knows nothing of this"):
        trials.tried("nothing")
    assert trials.tried(["run"]).times  # the next one can
    assert trials._process is process


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

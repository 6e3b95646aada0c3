"""What other processes took while a case was measured, from what the system counts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from csbench.bench import others
from csbench.bench.nvml import Nvml
from csbench.bench.others import Others

Run = Callable[..., Others]
BUSY = (
    "other processes took more than 10 % of the cores' time: end them, or leave them a core "
    "(--threads)"
)
SHARED = "other processes were on this GPU"


@pytest.fixture
def block(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Others at the end of a block of so many seconds, in which this process and all worked."""

    def run(
        took: float,
        own: float,
        work: Sequence[float],
        processes: Sequence[int | None] = (None,) * 2,
    ) -> Others:
        clock = {"now": 5.0, "own": 2.0}
        stat = tmp_path / "stat"
        stat.write_text(_stat([100.0] * len(work), idle=50.0))
        monkeypatch.setattr(others, "_STAT", stat)
        # One thread on each of the first two cores.
        monkeypatch.setattr(others, "_THREADS", tmp_path / "task")
        for thread in ("10", "11"):
            (tmp_path / "task" / thread).mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(os, "sched_getaffinity", lambda thread: {thread - 10})
        monkeypatch.setattr(
            others, "time",
            SimpleNamespace(
                perf_counter=lambda: clock["now"], process_time=lambda: clock["own"]
            ),
        )  # fmt: skip
        shown = iter(processes)
        with Others(cast(Nvml, SimpleNamespace(processes=lambda: next(shown)))) as found:
            clock["now"] += took
            clock["own"] += own
            stat.write_text(_stat([100.0 + spent for spent in work], idle=5000.0))
        return found

    return run


def _stat(work: Sequence[float], idle: float) -> str:
    """As Linux writes it: user, nice, system, idle, iowait, irq, softirq, steal, guests."""
    shares = (0.3, 0.1, 0.2, None, None, 0.1, 0.1, 0.2, None, None)
    second = os.sysconf("SC_CLK_TCK")
    lines = ["cpu  1 2 3 4 5 6 7 8 0 0"]
    for core, spent in zip(count(), work, strict=False):
        fields = [idle if share is None else share * spent for share in shares]
        lines.append(" ".join([f"cpu{core}", *(str(round(second * s)) for s in fields)]))
    return "\n".join([*lines, "intr 1 2", "ctxt 9", ""])


def test_what_others_took_of_the_own_cores_is_noted(block: Run) -> None:
    found = block(2.0, own=3.0, work=(2.0, 1.5, 2.0))
    assert found.found == {"cores": 0.25, "of_cores": 2}
    assert found.note(on_cores=True) == BUSY
    assert found.note(on_cores=False) is None


@pytest.mark.parametrize("own", [3.2, 3.5, 3.6])
def test_little_is_counted_and_not_noted(block: Run, own: float) -> None:
    found = block(2.0, own=own, work=(2.0, 1.5))
    assert found.found == {"cores": max(0, round((3.5 - own) / 2, 2)), "of_cores": 2}
    assert found.note(on_cores=True) is None


def test_counts_that_do_not_hold_the_own_work_say_nothing(block: Run) -> None:
    assert block(2.0, own=2.0, work=(0.0, 0.0)).found == {}


def test_a_short_block_says_nothing_of_cores(block: Run) -> None:
    assert block(0.4, own=0.0, work=(0.4, 0.4)).found == {}


@pytest.mark.parametrize("processes", [(1, 3), (3, 1), (0, 3), (None, 3)])
def test_other_processes_on_the_gpu_are_noted(block: Run, processes: Sequence[int | None]) -> None:
    found = block(0.1, own=0.1, work=(), processes=processes)
    assert found.found == {"gpu_processes": 2}
    assert found.note(on_cores=False) == SHARED
    both = block(2.0, own=0.0, work=(2.0, 2.0), processes=processes)
    assert both.note(on_cores=True) == f"{BUSY}; {SHARED}"


def test_one_process_on_the_gpu_is_this_one(block: Run) -> None:
    found = block(0.1, own=0.1, work=(), processes=(1, 1))
    assert found.found == {"gpu_processes": 0}
    assert found.note(on_cores=False) is None


@pytest.mark.parametrize("processes", [(0, 0), (None, None)])
def test_a_driver_that_shows_no_process_says_nothing(
    block: Run, processes: Sequence[int | None]
) -> None:
    assert block(0.1, own=0.1, work=(), processes=processes).found == {}


def test_without_counters_nothing_is_said(
    block: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    block(2.0, own=0.0, work=(2.0, 2.0))
    monkeypatch.setattr(others, "_STAT", tmp_path / "absent")
    clock = count(0.0, 9.0)
    monkeypatch.setattr(
        others, "time", SimpleNamespace(perf_counter=lambda: next(clock), process_time=lambda: 0.0)
    )
    with Others() as found:
        pass
    assert found.found == {}
    assert found.note(on_cores=True) is None

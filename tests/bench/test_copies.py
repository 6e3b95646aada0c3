"""Copies are added while there is time and room, and only those that run as the first one does."""

from __future__ import annotations

from itertools import count
from typing import Literal

import pytest
import torch

from csbench.bench import copies
from csbench.bench.capture import Replay
from csbench.core.stop import StopRule


def replay(mode: Literal["graph", "eager"] = "eager") -> Replay:
    made = Replay(lambda x: x, [(torch.zeros(1),)])
    made.mode = mode
    return made


@pytest.mark.parametrize(
    ("stop", "device", "expected"),
    [
        (StopRule(), "cpu", 8),
        (StopRule(), "cuda", 3),
        (StopRule(copies=5), "cuda", 5),
        (StopRule(runs=2), "cpu", 2),
    ],
)
def test_as_many_as_asked_for_or_as_suit_the_device_but_no_more_than_pairs(
    stop: StopRule, device: str, expected: int
) -> None:
    assert copies.wanted(stop, device) == expected


def test_copies_are_added_up_to_the_count() -> None:
    found = [replay()]
    copies.grow(found, replay, 4, seconds=60)
    copies.grow(found, replay, 3, seconds=60)
    assert len(set(map(id, found))) == 4


def test_the_time_for_making_them_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count()
    monkeypatch.setattr(copies.time, "perf_counter", lambda: float(next(ticks)))
    found = [replay()]
    copies.grow(found, replay, 99, seconds=3.0)
    assert len(found) == 3


def test_no_copies_without_room(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [replay()]
    monkeypatch.setattr(copies, "free_share", lambda device: 0.4)
    copies.grow(found, replay, 4, seconds=60)
    assert len(found) == 1


def test_memory_that_torch_keeps_for_later_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    found, free = [replay()], {"share": 0.4}
    monkeypatch.setattr(copies, "free_share", lambda device: free["share"])
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: free.update(share=0.9))
    copies.grow(found, replay, 4, seconds=60)
    assert len(found) == 4


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("out of memory"), MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)  # fmt: skip
def test_a_copy_that_does_not_fit_or_runs_otherwise_is_left_out(error: Exception) -> None:
    def too_big() -> Replay:
        raise error

    found = [replay("graph")]
    copies.grow(found, too_big, 4, seconds=60)
    copies.grow(found, lambda: replay("eager"), 4, seconds=60)
    assert len(found) == 1
    copies.grow(found, lambda: replay("graph"), 4, seconds=60)
    assert len(found) == 4


def test_a_copy_that_fails_otherwise_is_no_want_of_memory() -> None:
    def broken() -> Replay:
        raise RuntimeError("illegal instruction")

    with pytest.raises(RuntimeError, match="illegal instruction"):
        copies.grow([replay()], broken, 4, seconds=60)

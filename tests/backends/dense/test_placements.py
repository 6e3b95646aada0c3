"""cuDNN is asked again where one reading tells little, and its best answer is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch

from csbench.backends.dense import placements
from csbench.kernels import search

Measure = Callable[[Mapping[str, search.Run]], dict[str, float]]


@pytest.fixture(autouse=True)
def no_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placements, "_ranked", {})


def measuring(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Candidates of each measurement; a candidate returns its own time."""
    seen: list[int] = []

    def measure(candidates: Mapping[str, Callable[[], float]]) -> dict[str, float]:
        seen.append(len(candidates))
        return {name: run() for name, run in candidates.items()}

    monkeypatch.setattr(search, "measure", measure)
    return seen


def taking(*times: float) -> list[search.Run]:
    return [lambda ms=ms: ms for ms in times]


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_placement_holds_the_same_at_another_alignment(
    memory: torch.memory_format, dtype: torch.dtype
) -> None:
    given = torch.randn(6, 4, 3, 3).to(dtype).contiguous(memory_format=memory)
    first, second = placements.placements(given)
    assert first is given
    assert torch.equal(first, second)
    assert second.stride() == given.stride()
    assert second.data_ptr() % 32 == placements.SHIFT


def test_the_order_of_placements_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = measuring(monkeypatch)
    assert placements.ranking(taking(0.009, 0.007, 0.008), "3x3") == [1, 2, 0]
    assert placements.ranking(taking(0.001, 0.007, 0.008), "3x3") == [1, 2, 0]
    assert placements.ranking(taking(0.001, 0.007, 0.008), "1x1") == [0, 1, 2]
    assert seen == [1, 3, 1, 3]


def test_a_long_call_is_told_apart_by_one_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = measuring(monkeypatch)
    assert placements.ranking(taking(1.1 * placements.SHORT_MS, 0.001), "large") == [0]
    assert seen == [1]


def test_what_does_not_run_is_left_to_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(candidates: object) -> dict[str, float]:
        raise RuntimeError("no candidate runs")

    monkeypatch.setattr(search, "measure", measure)
    assert placements.ranking(taking(0.1, 0.1), "refused") == [0]


def test_what_has_one_placement_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = measuring(monkeypatch)
    assert placements.ranking(taking(0.1), "gemm") == [0]
    assert seen == []

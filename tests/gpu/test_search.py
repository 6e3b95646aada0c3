"""Choosing by measurement, with scripted times: ranks are kept, and a network overrules a layer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from csbench.kernels import search


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CSBENCH_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(search, "_answers", {})
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    return tmp_path


def test_ranking_is_measured_once_and_kept_on_disk(
    fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def measure(candidates: dict[str, object]) -> dict[str, float]:
        measured.append(sorted(candidates))
        return {"slow": 2.0, "fast": 1.0}

    monkeypatch.setattr(search, "measure", measure)
    candidates = {"slow": lambda: None, "fast": lambda: None, "broken": lambda: None}
    assert search.ranking(candidates, ("layer", 1)) == ["fast", "slow"]
    monkeypatch.setattr(search, "_answers", {})  # another process
    assert search.fastest(candidates, ("layer", 1)) == "fast"
    assert measured == [["broken", "fast", "slow"]]
    assert search.fastest({"only": lambda: None}, ("layer", 2)) == "only"
    (kept,) = (fresh_cache / "search").iterdir()
    assert json.loads(kept.read_text())["answer"] == {"slow": 2.0, "fast": 1.0}


def test_network_overrules_what_a_layer_alone_prefers(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = {("a", "x"): 2.0, ("a", "y"): 1.0, ("b", "x"): 1.0, ("b", "y"): 1.5}
    chosen = {"a": "x", "b": "x"}
    tried: list[dict[str, str]] = []

    def network_ms(network: object) -> float:
        tried.append(dict(chosen))
        return sum(cost[item] for item in chosen.items())

    monkeypatch.setattr(search, "_network_ms", network_ms)
    search.in_context(lambda: None, chosen, {"a": ["x", "y"], "b": ["x", "y"]}, "net")
    assert chosen == {"a": "y", "b": "x"}
    again = {"a": "x", "b": "x"}
    count = len(tried)
    search.in_context(lambda: None, again, {"a": ["x", "y"], "b": ["x", "y"]}, "net")
    assert again == chosen
    assert len(tried) == count  # remembered


def test_long_networks_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_network_ms", lambda network: search.LONG_MS + 1)
    chosen = {"a": "x"}
    search.in_context(lambda: None, chosen, {"a": ["x", "y"]}, "net")
    assert chosen == {"a": "x"}


@pytest.mark.gpu
def test_measure_tells_more_work_from_less_and_skips_what_fails() -> None:
    small, large = torch.zeros(1 << 10, device="cuda"), torch.zeros(1 << 26, device="cuda")

    def broken() -> None:
        raise RuntimeError("no such algorithm")

    found = {"small": small.neg, "large": large.neg, "broken": broken}
    times = search.measure(found)
    assert list(times) == ["small", "large"]
    assert times["large"] > 5 * times["small"]

"""Choosing by measurement, with scripted times: ranks are kept, and a network overrules a layer."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from csbench.errors import BackendError
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


def test_a_choice_without_a_key_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, fresh_cache: Path
) -> None:
    cost = {0: 2.0, 1: 1.0}
    chosen = {"a": 0}
    monkeypatch.setattr(search, "_network_ms", lambda network: cost[chosen["a"]])
    search.in_context(lambda: None, chosen, {"a": range(2)}, key=None)
    assert chosen == {"a": 1}
    cost[1] = 3.0
    chosen["a"] = 0
    search.in_context(lambda: None, chosen, {"a": range(2)}, key=None)
    assert chosen == {"a": 0}
    assert not list(fresh_cache.rglob("*.json"))


def test_a_choice_that_is_faster_once_or_cannot_run_is_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Popped from the front, once for every time that a choice is tried: a first reading that does
    # not count, two rounds, and then start and outcome by turns.
    turns = search.TURNS
    readings = {
        "start": [0.5, 1.0, 1.0, *[1.0] * turns], "luck": [0.9, 1.0, 1.0], "worse": [1.1, 1.1],
        "better": [0.9, 0.92, *[0.92] * turns],
    }  # fmt: skip
    chosen = {"layer": "start"}

    def network_ms(network: object) -> float:
        if chosen["layer"] == "refused":
            raise BackendError("launching kernel 'conv': invalid argument")
        return readings[chosen["layer"]].pop(0)

    monkeypatch.setattr(search, "_network_ms", network_ms)
    names = ["start", "luck", "refused", "worse", "better"]
    search.in_context(lambda: None, chosen, {"layer": names}, "net")
    assert chosen == {"layer": "better"}
    assert not any(readings.values())


def test_what_was_lucky_twice_and_is_slower_by_turns_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # "b" was faster two times; after that the network is slower for it in most of the turns.
    readings = {"a": [1.0] * 8, "b": [0.9, 0.9, 0.9, 1.1, 1.1, 1.1, 0.9]}
    chosen = {"layer": "a", "other": "only"}
    monkeypatch.setattr(search, "_network_ms", lambda _: readings[chosen["layer"]].pop(0))
    search.in_context(lambda: None, chosen, {"layer": "ab", "other": ["only"]}, "net")
    assert chosen == {"layer": "a", "other": "only"}
    assert not readings["b"]


def test_a_network_that_fails_by_turns_keeps_what_was_there_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    readings = {"a": [1.0] * 8, "b": [0.9, 0.9, 0.9]}

    def network_ms(network: object) -> float:
        if not readings[chosen["layer"]]:
            raise RuntimeError("out of memory")
        return readings[chosen["layer"]].pop(0)

    monkeypatch.setattr(search, "_network_ms", network_ms)
    ran: list[str] = []
    chosen = {"layer": "a"}
    search.in_context(lambda: ran.append(chosen["layer"]), chosen, {"layer": "ab"}, "net")
    assert chosen == {"layer": "a"}
    assert ran == ["a"]


def test_the_search_in_a_network_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 7))
    monkeypatch.setattr(search, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    tried: list[str] = []

    def network_ms(network: object) -> float:
        tried.append("".join(chosen.values()))
        return 1.0

    monkeypatch.setattr(search, "_network_ms", network_ms)
    chosen = dict.fromkeys("abcdef", "x")
    search.in_context(lambda: None, chosen, dict.fromkeys("abcdef", "xy"), "net")
    assert tried == ["xxxxxx", "xxxxxx", "yxxxxx", "xyxxxx"]  # at 7 and 14 seconds of 20
    assert chosen == dict.fromkeys("abcdef", "x")


def test_a_candidate_that_torch_or_the_driver_refuses_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def capture(run: search.Run, *_: object) -> object:
        run()
        return run

    def torch_refuses() -> None:
        raise RuntimeError("no such algorithm\nand a trace")

    def driver_refuses() -> None:
        raise BackendError("launching kernel 'conv': invalid argument")

    monkeypatch.setattr(search, "_stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(search, "_capture", capture)
    monkeypatch.setattr(search, "_milliseconds", lambda graph, stream, min_ms: 5.0)
    refused = {"a": torch_refuses, "b": driver_refuses}
    assert search.measure({**refused, "c": lambda: None}) == {"c": 1.0}
    with pytest.raises(RuntimeError, match="no candidate runs: a: no such algorithm; b: launching"):
        search.measure(refused)


def test_searches_share_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_streams", {})
    monkeypatch.setattr(torch.cuda, "Stream", object)
    device = 0
    monkeypatch.setattr(torch.cuda, "current_device", lambda: device)
    first = search._stream()
    assert search._stream() is first
    device = 1
    assert search._stream() is not first


def test_long_networks_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_network_ms", lambda network: search.LONG_MS + 1)
    chosen = {"a": "x"}
    search.in_context(lambda: None, chosen, {"a": ["x", "y"]}, "net")
    assert chosen == {"a": "x"}

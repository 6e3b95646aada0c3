"""What is recorded of the machine, and what is not; cache sizes; memory at the peak."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from csbench.bench import environment
from csbench.bench.flush import flusher, last_level_bytes
from csbench.bench.memory import in_use, peak_of


def test_the_environment_is_json_and_tells_versions() -> None:
    found = environment.full("cpu")
    assert json.loads(json.dumps(found)) == found
    assert found["torch"] == str(torch.__version__)
    assert found["threads"] == torch.get_num_threads()
    assert found["cpu"] and found["cores"] > 0 and found["memory_bytes"] > 1 << 28
    assert "numpy" in found["libraries"]


def test_the_hosts_name_is_not_told() -> None:
    assert socket.gethostname() not in json.dumps(environment.host())
    assert len(environment.host()["host"]) == 8


def test_gpus_of_one_model_are_told_apart_by_a_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    def env(**told: str) -> dict[str, object]:
        gpu = SimpleNamespace(name="H200", total_memory=1, major=9, minor=0, **told)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
        return environment.full("cuda")

    one, other = env(uuid="5e5b-1"), env(uuid="5e5b-2")
    assert one["gpu_id"] != other["gpu_id"]
    assert "5e5b" not in json.dumps(one)
    assert env()["gpu_id"] is None


@pytest.mark.parametrize(
    ("sizes", "expected"), [(["32K\n", "1024K\n", "32M\n"], 32 << 20), ([], 64 << 20)]
)
def test_the_last_cache_is_the_largest(tmp_path: Path, sizes: list[str], expected: int) -> None:
    for i, size in enumerate(sizes):
        (tmp_path / f"index{i}").mkdir()
        (tmp_path / f"index{i}" / "size").write_text(size)
    assert last_level_bytes(tmp_path) == expected


def test_a_flush_writes_more_than_the_cache() -> None:
    buffer = flusher("cpu")()
    assert isinstance(buffer, torch.Tensor)
    assert buffer.nbytes >= 2 * last_level_bytes() - 4


def test_on_a_gpu_the_first_run_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    needs, peaks = iter((900, 300)), [0]
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: peaks.append(0))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: peaks[-1])

    def run() -> None:
        peaks[-1] = max(peaks[-1], next(needs))

    assert peak_of(run, "cuda", 100) == 200


def test_the_peak_of_a_run_is_seen_and_forgotten() -> None:
    if peak_of(lambda: None, "cpu", 0) is None:
        pytest.skip("this system does not count the peak")
    assert in_use("cpu") == 0
    small = peak_of(lambda: None, "cpu", 0) or 0
    large = peak_of(lambda: torch.ones(1 << 27), "cpu", 0) or 0  # 512 MiB
    again = peak_of(lambda: None, "cpu", 0) or 0
    assert large - small > 400 << 20
    assert large - again > 400 << 20

"""Ceilings and floors: arithmetic, and the cache of what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from csbench.bench import limits

H200 = {"copy_gb_s": 4000.0, "fp32_tflop_s": 50.0, "tf32_tflop_s": 400.0, "fp16_tflop_s": 800.0,
        "launch_us": 2.0}  # fmt: skip


def test_the_floor_is_the_slower_of_products_and_bytes() -> None:
    assert limits.floor_ms(8e9, 0, "fp16", H200) == pytest.approx(0.01)
    assert limits.floor_ms(8e9, 4e9, "fp16", H200) == pytest.approx(1.0)


def test_fp32_may_come_as_three_products_of_tf32_or_fp16() -> None:
    assert limits.rate("fp32", H200) == pytest.approx(800 / 3)
    assert limits.rate("fp32", H200 | {"fp16_tflop_s": 0}) == pytest.approx(400 / 3)
    assert limits.rate("fp32", {"fp32_tflop_s": 0.2}) == 0.2
    assert limits.rate("tf32", H200) == 400


def test_the_hard_floor_trusts_no_precision_and_leaves_a_margin() -> None:
    assert limits.hard_floor_ms(800e9, H200) == pytest.approx(limits.POSSIBLE)


def test_no_replay_is_faster_than_an_empty_graph() -> None:
    assert limits.hard_floor_ms(0, H200, replayed=True) == pytest.approx(0.8 * 0.002)
    assert limits.hard_floor_ms(0, H200) == 0
    assert limits.hard_floor_ms(800e9, {"fp32_tflop_s": 800.0, "copy_gb_s": 9.0}, replayed=True)


def test_bytes_that_no_cache_spares_take_the_time_of_a_copy() -> None:
    assert limits.hard_floor_ms(8e6, H200, size_bytes=4e9) == pytest.approx(0.8)


def test_ceilings_are_measured_once_and_only_ever_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CSBENCH_CACHE_DIR", str(tmp_path))
    found = [{"copy_gb_s": 30.0, "launch_us": 2.0}, {"copy_gb_s": 20.0, "launch_us": 1.5}]
    monkeypatch.setattr(limits, "measure", lambda device: found.pop(0))
    env = {"cpu": "A", "threads": 2}
    assert limits.ceilings("cpu", env) == {"copy_gb_s": 30.0, "launch_us": 2.0}
    assert limits.ceilings("cpu", env) == {"copy_gb_s": 30.0, "launch_us": 2.0}
    assert limits.ceilings("cpu", env, again=True) == {"copy_gb_s": 30.0, "launch_us": 1.5}
    assert limits.ceilings("cpu", env) == {"copy_gb_s": 30.0, "launch_us": 1.5}
    with pytest.raises(IndexError):  # another number of threads is another device
        limits.ceilings("cpu", {**env, "threads": 1})


def test_a_damaged_cache_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CSBENCH_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(limits, "measure", lambda device: {"copy_gb_s": 1.0})
    limits.ceilings("cpu", {})
    (file,) = tmp_path.glob("ceilings-*.json")
    file.write_text("{torn")
    assert limits.ceilings("cpu", {}) == {"copy_gb_s": 1.0}

"""Measuring on a GPU: graphs, events, ceilings, the driver's readings, and a whole case."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from csbench.backends.base import TORCH_DTYPE
from csbench.bench import environment, limits
from csbench.bench.capture import Replay
from csbench.bench.clocks import CudaClock
from csbench.bench.flush import flusher, l2_bytes
from csbench.bench.memory import in_use, peak_of
from csbench.bench.nvml import Watch
from csbench.cli import run
from csbench.core.store import read

pytestmark = pytest.mark.gpu


def inputs(count: int) -> list[tuple[torch.Tensor]]:
    return [(torch.randn(256, 256, device="cuda"),) for _ in range(count)]


def test_a_captured_run_gives_the_output_of_fresh_inputs() -> None:
    weight = torch.randn(256, 256, device="cuda")
    replay = Replay(lambda x: x @ weight, inputs(3))
    assert (replay.mode, replay.note) == ("graph", None)
    for _ in range(4):
        replay()
    (fresh,) = inputs(1)[0]
    assert torch.equal(replay.fresh((fresh,)), fresh @ weight)


def test_what_a_graph_does_not_write_is_nan() -> None:
    def half(x: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(x)
        out[:128] = x[:128]
        return out

    replay = Replay(half, inputs(1))
    out = replay.fresh(inputs(1)[0])
    assert not out[:128].isnan().any()
    assert out[128:].isnan().all()


def test_what_cannot_be_captured_runs_eagerly_and_says_so() -> None:
    replay = Replay(lambda x: x * float(x.sum().item()), inputs(2))
    assert replay.mode == "eager"
    assert "not captured" in (replay.note or "")
    (x,) = inputs(1)[0]
    assert torch.equal(replay.fresh((x,)), x * float(x.sum().item()))
    torch.randn(8, device="cuda").sum().item()  # the failed capture left nothing behind


@pytest.mark.parametrize("cache", ["warm", "cold"])
def test_the_clock_times_the_work_and_not_the_flush(cache: str) -> None:
    a = torch.randn(4096, 4096, device="cuda")
    replay = Replay(lambda x: x @ x, [(a,)])
    clock = CudaClock(flusher("cuda") if cache == "cold" else None)
    once, several = clock.sample(replay, 1), clock.sample(replay, 8)
    assert 0 < once < 1000 and 0 < several < 1000
    assert l2_bytes() > 1 << 20


def test_ceilings_of_the_gpu_are_plausible() -> None:
    found = limits.measure("cuda")
    assert set(found) == {"copy_gb_s", "launch_us", *(f"{d}_tflop_s" for d in TORCH_DTYPE)}
    assert all(0 < value < math.inf for value in found.values())
    assert found["fp16_tflop_s"] > found["fp32_tflop_s"]


def test_the_driver_tells_clocks_power_and_energy() -> None:
    gpu = environment.open_nvml()
    if gpu is None:
        pytest.skip("the driver does not let this GPU be read")
    with Watch(gpu, every=0.001) as watch:
        for _ in range(20):
            torch.randn(2048, 2048, device="cuda").matmul(torch.randn(2048, 2048, device="cuda"))
            torch.cuda.synchronize()
    assert watch.readings
    assert 100 < watch.readings[0].sm_mhz < 5000
    assert 5 < watch.readings[0].watts < 2000


def test_peak_memory_counts_what_was_lowered_since() -> None:
    before = in_use("cuda")
    weight = torch.zeros(1 << 20, device="cuda")
    peak = peak_of(lambda: weight * 2, "cuda", before)
    assert peak is not None and 8 << 20 <= peak < 32 << 20


def test_a_case_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = run(
        ["infer", "--model", "resnet20", "--pattern", "cs", "--sparsity", "75", "-d", "cuda",
         "--backend", "masked", "--dtype", "fp32,fp16", "-b", "2", "-r", "5"]
    )  # fmt: skip
    assert code in (0, 5)
    for record in read("csbench-results/records.jsonl"):
        assert record.measurement is not None, record.reason
        assert record.measurement.mode == "graph"
        assert len(record.measurement.samples_ms) == 5
        assert record.env["gpu"] == torch.cuda.get_device_name()
        assert record.env["ceilings"]["copy_gb_s"] > 0
        assert {f"cudnn {record.case.dtype}", "cudnn fp16"} <= set(
            record.measurement.dense_samples_ms
        )
        if environment.open_nvml() is not None:
            assert record.env["gpu_during"]["watts"] > 0
            assert record.env["joules_per_image"]["baseline"] > 0

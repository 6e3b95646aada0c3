"""A baseline that is slow in one process is made in another one, and never in vain for ever."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import msgspec
import pytest

from csbench.bench import limits, process, runner, slow_baseline, worker
from csbench.bench.infer import Bench
from csbench.bench.messages import Request, Settings
from csbench.bench.progress import Reporter
from csbench.bench.slow_baseline import SlowBaseline
from csbench.core.case import Case, CheckpointRef
from csbench.core.record import Record
from csbench.core.stop import StopRule
from tests.bench.test_infer import CEILINGS, OrderedClock

TINY = f"{Path(__file__).parent / 'tiny.py'}:tiny"
CASE = Case(
    model=TINY, pattern="cs:4", sparsity=0.75, backend="fake", baseline="fake", device="cpu",
    input=(3, 8, 8), checkpoint=CheckpointRef(seed=0),
)  # fmt: skip
ENV = {"gpu": "H200", "gpu_id": "1a2b", "driver": "580", "torch": "2.11", "cudnn": 91900}

GUARDED = slow_baseline.DEVICES  # CPUs join them below: no test here has a GPU


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CSBENCH_CACHE_DIR", str(tmp_path))
    return tmp_path


def doubt(took_ms: float, *earlier_ms: float, case: Case = CASE, **env: object) -> str | None:
    return slow_baseline.doubt(case, ENV | env, took_ms, lambda: took_ms, earlier_ms)


def test_a_baseline_may_be_3_percent_slower_than_the_least_time() -> None:
    for took_ms in (1.40, 1.44, 1.39, 1.43):
        assert doubt(took_ms) is None
    with pytest.raises(SlowBaseline, match=r"took 1\.435 ms; 1\.39 ms were reached") as slow:
        doubt(1.435)
    assert slow.value.took_ms == 1.435


def test_one_slow_reading_is_taken_again() -> None:
    assert doubt(1.0) is None
    assert slow_baseline.doubt(CASE, ENV, 1.5, lambda: 1.01, ()) is None
    assert slow_baseline.doubt(CASE, ENV, 1.02, lambda: pytest.fail("not slow"), ()) is None


def test_after_three_tries_the_best_of_them_is_the_time_to_reach() -> None:
    assert doubt(1.0) is None
    with pytest.raises(SlowBaseline):
        doubt(1.5, 1.4)
    assert doubt(1.6, 1.4, 1.5) == "baseline took 1.6 ms; 1 ms were reached before on this GPU"
    assert doubt(1.44) is None
    with pytest.raises(SlowBaseline, match=r"1\.4 ms were reached"):
        doubt(1.45)
    assert doubt(1.0, 1.45) is None  # it was bad luck after all
    with pytest.raises(SlowBaseline, match=r" 1 ms were reached"):
        doubt(1.44)


def test_times_hold_for_one_workload_on_one_gpu_and_its_libraries() -> None:
    assert doubt(1.0) is None
    libraries = ({"driver": "590"}, {"torch": "2.13"}, {"cudnn": 1})
    for other in ({"gpu": "A100"}, {"gpu_id": "its twin"}, *libraries):
        assert doubt(2.0, **other) is None
    for more in ({"dtype": "fp16"}, {"batch": 2}, {"baseline": "inductor"}):
        assert doubt(2.0, case=msgspec.structs.replace(CASE, **more)) is None
    same = msgspec.structs.replace(CASE, backend="cs", pattern="nm:2:4", sparsity=0.5)
    with pytest.raises(SlowBaseline):
        doubt(2.0, case=same)


def test_a_damaged_file_is_a_time_never_taken(own_cache: Path) -> None:
    doubt(1.0)
    (file,) = own_cache.glob("baseline-*.json")
    for damaged in ("{torn", "[]", "{}"):
        file.write_text(damaged)
        assert doubt(2.0) is None
        assert json.loads(file.read_text()) == {"least_ms": 2.0}


def test_a_time_that_cannot_be_kept_fails_no_case(own_cache: Path) -> None:
    doubt(1.0)
    (file,) = own_cache.glob("baseline-*.json")
    file.unlink()
    file.mkdir()
    assert doubt(2.0) is None


class InThisProcess(process.Worker):
    """A worker that is served here, with a clock of its own: what its libraries chose."""

    def __init__(self, clock: OrderedClock) -> None:
        self._bench = Bench("cpu", clock=clock)
        self._pipe, end = os.pipe()
        self._replies = os.fdopen(end, "wb")
        self._buffer, self._ready, self.device = b"", True, "cpu"

    def fileno(self) -> int:
        return self._pipe

    def ask(self, request: Request, timeout: float) -> None:
        self._deadline = time.monotonic() + timeout
        worker._serve(self._bench, request, worker.Channel(self._replies))

    def end(self, grace: float = 0.0) -> None:
        self._replies.close()
        os.close(self._pipe)


def clock(baseline_ms: float) -> OrderedClock:
    """The baseline is seen first, then what is compared with it."""
    return OrderedClock(cycle([baseline_ms]), *(cycle([20.0]) for _ in range(20)))


Measure = Callable[..., list[Record]]


@pytest.fixture
def said() -> io.StringIO:
    """What the user is told."""
    return io.StringIO()


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch, said: io.StringIO) -> Measure:
    """Records of cases by a runner whose n-th worker makes a baseline of the n-th time, and which
    needs exactly as many."""
    monkeypatch.setattr(slow_baseline, "DEVICES", {"cpu"})
    monkeypatch.setattr(limits, "ceilings", lambda device, env, again=False: CEILINGS)

    def measured(*times: float, cases: int = 1, cache: str | None = None) -> list[Record]:
        waiting = [InThisProcess(clock(t)) for t in times]
        monkeypatch.setattr(runner, "Worker", lambda device, threads: waiting.pop(0))
        stop = StopRule(runs=10, warmup=1, copies=1)
        settings = Settings(stop=stop, cache=cache)  # type: ignore[arg-type]
        reporter = Reporter(verbose=True, stream=said)
        half = msgspec.structs.replace(CASE, pattern="cs:2", sparsity=0.5)
        with runner.Runner(["cpu"], settings, reporter) as running:
            records = list(running.measure([CASE, half][:cases]))
        assert not waiting
        return records

    return measured


def baseline_ms(record: Record) -> float:
    assert record.measurement is not None, record.reason
    return record.measurement.baseline_samples_ms[0]


def test_a_slow_baseline_is_made_again_by_a_new_worker(measure: Measure, said: io.StringIO) -> None:
    measure(10.0)
    (record,) = measure(11.0, 10.1)
    assert (record.status, record.reason, baseline_ms(record)) == ("ok", None, 10.1)
    told = [line for line in said.getvalue().splitlines() if "new process" in line]
    assert len(told) == 1
    assert "baseline took 11 ms; 10 ms were reached before on this GPU" in told[0]
    silent = io.StringIO()
    Reporter(stream=silent).retried(CASE, "slow")  # without -v
    assert not silent.getvalue()


def test_a_baseline_that_stays_slow_makes_one_row_noisy_and_holds_up_no_other(
    measure: Measure,
) -> None:
    measure(10.0)
    marked, following = measure(11.3, 11.2, 11.1, cases=2)
    assert (marked.status, baseline_ms(marked)) == ("noisy", 11.1)
    assert marked.reason == "baseline took 11.1 ms; 10 ms were reached before on this GPU"
    assert (following.status, baseline_ms(following)) == ("ok", 11.1)


def test_a_time_that_is_impossible_stays_so_beside_a_slow_baseline(
    measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(10.0)
    slow = {**CEILINGS, "fp32_tflop_s": 1e-9, "bf16_tflop_s": 1e-9}
    monkeypatch.setattr(limits, "ceilings", lambda device, env, again=False: slow)
    (record,) = measure(11.3, 11.2, 11.1)
    assert record.status == "invalid"
    assert "below the physical floor" in (record.reason or "")


def test_every_case_has_tries_of_its_own(measure: Measure) -> None:
    measure(10.0)
    marked, following = measure(11.0, 11.2, 11.5, 11.1, cases=2)  # from 11.33 on slow again
    assert (marked.status, baseline_ms(marked)) == ("noisy", 11.5)
    assert (following.status, baseline_ms(following)) == ("ok", 11.1)


def test_layers_cold_caches_and_cpus_are_left_alone(
    measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(10.0)
    (cold,) = measure(12.0, cache="cold")
    assert cold.status == "ok"
    layer = msgspec.structs.replace(CASE, task="layer", layer="first")
    settings = Settings(stop=StopRule(runs=10, warmup=1, copies=1), cache="warm")
    for ms in (10.0, 12.0):
        assert Bench("cpu", clock=clock(ms)).measure(layer, settings, lambda *_: None).measurement
    monkeypatch.setattr(slow_baseline, "DEVICES", GUARDED)
    assert Bench("cpu", clock=clock(12.0)).measure(CASE, settings, lambda *_: None).status == "ok"

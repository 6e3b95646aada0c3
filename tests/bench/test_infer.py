"""A case becomes a record: its status, its proof and its samples, by a scripted clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import msgspec
import pytest
import torch

from csbench import models
from csbench.backends import registry
from csbench.backends.base import Backend
from csbench.bench import infer, limits, others
from csbench.bench.clocks import Run
from csbench.bench.energy import EnergyMeter, Sustained
from csbench.bench.infer import Bench
from csbench.bench.messages import Settings
from csbench.bench.others import Others
from csbench.bench.subject import Lowered, Subject
from csbench.core.axes import Sweep
from csbench.core.case import Case
from csbench.core.pattern import parse
from csbench.core.record import Record
from csbench.core.stop import StopRule
from csbench.errors import PatternError, UsageError
from csbench.sparse import checkpoint as checkpoints
from csbench.sparse.network import sparsify_state
from tests.bench.misbehaving import Remembers, RemembersNumbers

HERE = Path(__file__).parent
TINY = f"{HERE / 'tiny.py'}:tiny"
CEILINGS = {"copy_gb_s": 30.0, "fp32_tflop_s": 0.2, "bf16_tflop_s": 0.4}


class OrderedClock:
    """Times by the order in which runs are first seen: the baseline comes before the subject."""

    def __init__(self, *rows: Iterator[float]) -> None:
        self._waiting = iter(rows)
        self._rows: dict[Run, Iterator[float]] = {}
        self._now = 0.0

    def now(self) -> float:
        return self._now

    def sample(self, run: Run, times: int) -> float:
        run()
        if run not in self._rows:
            self._rows[run] = next(self._waiting)
        milliseconds = next(self._rows[run])
        self._now += milliseconds * times / 1e3
        return milliseconds


class ClockOfWork:
    """20 ms for a run that computes a network, 5 ms for any other."""

    spent = 0.0

    def now(self) -> float:
        return self.spent

    def sample(self, run: Run, times: int) -> float:
        before = Remembers.computed
        run()
        milliseconds = 20.0 if Remembers.computed > before else 5.0
        self.spent += milliseconds * times / 1e3
        return milliseconds


Measure = Callable[..., list[Record]]


@pytest.fixture(autouse=True)
def no_ceilings_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ceilings", lambda device, env, again=False: CEILINGS)


@pytest.fixture(autouse=True)
def nothing_counts_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(others, "_STAT", tmp_path / "absent")


def measure(
    clock: OrderedClock | None = None, *, stop: StopRule | None = None, **axes: object
) -> list[Record]:
    """Records of a sweep over the tiny network, against the fake baseline."""
    axes = {"model": (TINY,), "pattern": ("cs",), "sparsity": (0.75,), "baseline": ("fake",),
            "backend": ("fake",)} | axes  # fmt: skip
    quick = OrderedClock(*(cycle([12.0 + i]) for i in range(9)))
    bench = Bench("cpu", threads=1, clock=clock or quick)
    settings = Settings(stop=stop or StopRule(runs=10, warmup=1, copies=1))
    return [
        bench.measure(case, settings, lambda *_: None)
        for case in bench.plan(Sweep(**axes))  # type: ignore[arg-type]
    ]


def misbehaving(name: str) -> tuple[str]:
    return (f"{HERE / 'misbehaving.py'}:{name}",)


def test_what_others_did_meanwhile_is_recorded_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Crowd(Others):
        def __exit__(self, *_: object) -> None:
            self.found = {"cores": 1.0, "of_cores": 2}

    monkeypatch.setattr(infer, "Others", Crowd)
    (record,) = measure()
    assert record.env["others"] == {"cores": 1.0, "of_cores": 2}
    assert record.status == "ok"
    assert "other processes took more than 10 % of the cores' time" in (record.reason or "")


def test_a_case_becomes_a_whole_record() -> None:
    (record,) = measure()
    assert (record.status, record.reason) == ("ok", None)
    assert record.key == record.case.key
    assert (record.case.pattern, record.case.sparsity) == ("cs:4", 0.75)
    assert record.measurement is not None and record.check is not None
    assert len(record.measurement.samples_ms) == len(record.measurement.baseline_samples_ms) == 10
    assert (record.measurement.mode, record.measurement.cache) == ("eager", "warm")
    assert 0 < (record.check.relative_error or 0) < 1e-5
    assert record.prepare_ms is not None and record.prepare_ms > 0
    assert record.mask_ms is not msgspec.UNSET and record.mask_ms > 0
    assert record.env["threads"] == torch.get_num_threads()
    assert record.env["ceilings"] == CEILINGS


def test_where_nothing_was_searched_a_record_is_written_as_before() -> None:
    (record,) = measure(backend=("onednn",), pattern=("dense",), sparsity=())
    assert record.status == "ok"
    assert b"mask_ms" not in msgspec.json.encode(record)


def test_a_record_tells_sustained_load_where_energy_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quiet = measure()[0].env
    assert not {"joules_per_image", "sustained_ms", "sustained_s"} & set(quiet)
    loads = iter((Sustained(4.0, 13.0, 1.1), Sustained(2.0, 12.0, 1.0)))
    monkeypatch.setattr(EnergyMeter, "sustained", lambda *_: next(loads))
    (record,) = measure(batch=(2,))
    assert record.env["joules_per_image"] == {"sparse": 2.0, "baseline": 1.0}
    assert record.env["sustained_ms"] == {"sparse": 13.0, "baseline": 12.0}
    assert record.env["sustained_s"] == {"sparse": 1.1, "baseline": 1.0}


def test_both_sparsities_and_what_ran_in_every_layer() -> None:
    (record,) = measure()
    ran = {layer.name: (layer.ran, layer.reason) for layer in record.layers}
    assert ran == {
        "stem": ("dense", "the stem: 3 input channels"),
        "first": ("sparse", None),
        "second": ("sparse", None),
        "fc": ("dense", "the classifier"),
    }
    assert record.sparsity is not None
    assert record.sparsity.layers == 0.75
    pruned, weights = 0.75 * 2 * 16 * 16 * 9, 16 * 3 * 9 + 2 * 16 * 16 * 9 + 160
    assert record.sparsity.model == pytest.approx(pruned / weights)


def test_flops_and_floor_of_a_layer_count_what_was_kept() -> None:
    sparse, dense = measure(sparsity=(0.75,)), measure(sparsity=(0.0,))
    by_name = [{layer.name: layer for layer in records[0].layers} for records in (sparse, dense)]
    assert by_name[1]["first"].flops == 2 * 16 * 16 * 9 * 64
    assert by_name[0]["first"].flops * 4 == by_name[1]["first"].flops
    bytes_moved = by_name[1]["first"].bytes + 2 * 16 * 64 * 4
    floor = max(by_name[1]["first"].flops / 0.2e9, bytes_moved / 30e6)
    assert by_name[1]["first"].floor_ms == pytest.approx(floor)


def test_sparsity_zero_runs_the_sparse_kernel_on_all_weights() -> None:
    (record,) = measure(sparsity=(0.0,))
    assert [layer.ran for layer in record.layers] == ["dense", "sparse", "sparse", "dense"]
    assert record.sparsity is not None and record.sparsity.layers == 0.0


def test_table_11s_sparsities_are_the_default() -> None:
    bench = Bench("cpu")
    cases = bench.plan(Sweep(model=("resnet20",), pattern=("block:16x16",), backend=("fake",)))
    assert [case.sparsity for case in cases] == [0, 0.5, 0.75, 0.875, 0.9375]
    assert {case.baseline for case in cases} == {"onednn"}


@pytest.mark.parametrize("name", ["OffByALittle", "GivesNan", "LeavesItsOutputUnwritten"])
def test_a_wrong_result_carries_no_time(name: str) -> None:
    (record,) = measure(backend=misbehaving(name))
    assert record.status == "wrong"
    assert record.measurement is None
    assert record.check is not None
    assert not (record.check.relative_error or math.inf) <= record.check.tolerance


def test_a_result_that_goes_wrong_while_timed_carries_no_time() -> None:
    (record,) = measure(backend=misbehaving("GoesWrongLater"))
    assert record.status == "wrong"
    assert record.measurement is None


def test_a_result_remembered_for_its_memory_is_wrong() -> None:
    (record,) = measure(backend=misbehaving("Remembers"))
    assert (record.status, record.measurement) == ("wrong", None)
    assert "relative error" in (record.reason or "")


def test_a_result_remembered_for_its_numbers_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    cheat = RemembersNumbers()
    loaded = registry.get
    monkeypatch.setattr(registry, "get", lambda name: cheat if name == "cheat" else loaded(name))
    (record,) = measure(ClockOfWork(), backend=("cheat",))
    assert (record.status, record.measurement) == ("wrong", None)
    assert "results are remembered" in (record.reason or "")


def test_flops_are_counted_here_and_not_by_the_backend() -> None:
    (record,) = measure(backend=misbehaving("Remembers"))
    assert {x.name: x.flops for x in record.layers}["first"] == 2 * 16 * 4 * 9 * 64


@pytest.mark.parametrize(("name", "dtype"), [
    ("RunsDense", "fp32"), ("RunsDense", "bf16"), ("SaysSparse", "fp32")
])  # fmt: skip
def test_a_plug_in_that_multiplies_zeros_is_not_called_sparse(name: str, dtype: str) -> None:
    (record,) = measure(backend=misbehaving(name), dtype=(dtype,))
    assert (record.status, record.measurement) == ("unsupported", None)
    assert "multiplies zeros like any number, though it says" in (record.reason or "")
    assert {layer.ran for layer in record.layers} == {"dense"}


def test_a_plug_in_that_leaves_zeros_out_is_called_sparse() -> None:
    (record,) = measure(backend=misbehaving("Wrapped"))
    assert record.status == "ok"
    assert [layer.ran for layer in record.layers].count("sparse") == 2


def test_a_wrong_baseline_is_an_error_that_names_it() -> None:
    (record,) = measure(baseline=misbehaving("OffByALittle"))
    assert record.status == "error"
    assert "baseline" in (record.reason or "") and "relative error" in (record.reason or "")


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("Raises", "error", "RuntimeError: kernel launch failed"),
        ("RunsOutOfMemory", "oom", "no room for 4 TiB"),
        ("IsMissing", "unsupported", "no compiler; install g++"),
        ("RunsNoLayer", "unsupported", "wrapped ran no layer sparse: the weather"),
    ],
)
def test_failure_is_a_record_with_a_status(name: str, status: str, reason: str) -> None:
    (record,) = measure(backend=misbehaving(name))
    assert (record.status, record.reason, record.measurement) == (status, reason, None)


def test_a_layer_that_cannot_run_falls_back_and_says_why() -> None:
    (record,) = measure(backend=misbehaving("RunsOneLayerOnly"))
    assert record.status == "ok"
    ran = {layer.name: (layer.ran, layer.reason) for layer in record.layers}
    assert ran["first"] == ("sparse", None)
    assert ran["second"] == ("dense", "only layers called first")


@pytest.mark.parametrize(
    ("axes", "reason"),
    [
        ({"backend": misbehaving("Wrapped"), "pattern": ("unstructured",)}, "runs cs, not uns"),
        ({"backend": ("cudnn",)}, "cudnn"),
    ],
)
def test_a_backend_that_cannot_run_the_case_is_unsupported(
    axes: dict[str, object], reason: str
) -> None:
    (record,) = measure(**axes)
    assert record.status == "unsupported"
    assert reason in (record.reason or "")


def test_running_out_of_time_is_noisy_and_keeps_the_samples() -> None:
    shaky = OrderedClock(cycle([10.0]), *(cycle([10.0, 30.0, 20.0, 15.0]) for _ in range(9)))
    (record,) = measure(shaky, stop=StopRule(min_time=0.1, max_time=1.0, warmup=0, copies=1))
    assert record.status == "noisy"
    assert "asked for 1 %" in (record.reason or "")
    assert record.measurement is not None and len(record.measurement.samples_ms) > 10


def test_both_networks_are_sampled_on_copies_in_turn() -> None:
    (record,) = measure(stop=StopRule(runs=6, warmup=0, copies=3))
    measured = record.measurement
    assert measured is not None and measured.copies == 3
    rows = measured.samples_ms, measured.baseline_samples_ms
    assert all(row == 2 * row[:3] for row in rows)  # each copy has a time of its own
    assert len({*rows[0], *rows[1]}) == 6


def test_copies_of_the_baseline_serve_the_next_case(monkeypatch: pytest.MonkeyPatch) -> None:
    lowered: list[str] = []
    known = Subject.lower

    def lower(subject: Subject, backend: Backend, fallback: Backend, case: Case) -> Lowered:
        lowered.append(f"{case.pattern} {case.dtype}")
        return known(subject, backend, fallback, case)

    monkeypatch.setattr(Subject, "lower", lower)
    measure(stop=StopRule(runs=6, warmup=0, copies=3), sparsity=(0.5, 0.75))
    assert lowered.count("dense fp32") == 3
    assert lowered.count("cs:2 fp32") == lowered.count("cs:4 fp32") == 3


def test_a_copy_that_is_wrong_makes_the_case_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    known, made = Subject.lower, iter(range(99))

    def lower(subject: Subject, backend: Backend, fallback: Backend, case: Case) -> Lowered:
        right = known(subject, backend, fallback, case)
        if case.pattern == "dense" or next(made) < 2:
            return right
        return Lowered(lambda x: 1.01 * right.run(x), right.layers)

    monkeypatch.setattr(Subject, "lower", lower)
    (record,) = measure(stop=StopRule(runs=6, warmup=0, copies=3))
    assert (record.status, record.measurement) == ("wrong", None)


def test_too_few_pairs_are_noisy_and_say_so() -> None:
    slow = OrderedClock(*(cycle([9e3]) for _ in range(9)))
    (record,) = measure(slow, stop=StopRule(warmup=0, copies=1))
    assert (record.status, record.reason) == (
        "noisy", "3 pairs in 15 s are too few; raise --max-time"
    )  # fmt: skip


def test_a_time_below_the_physical_floor_is_refused() -> None:
    (record,) = measure(OrderedClock(*(cycle([1e-6]) for _ in range(9))))
    assert record.status == "invalid"
    assert "below the physical floor" in (record.reason or "")


def test_per_layer_is_a_row_for_each_distinct_convolution_with_the_pattern() -> None:
    records = measure(task=("infer", "layer"))
    assert [r.case.task for r in records] == ["infer", "layer", "layer"]  # second adds a residual
    assert [r.case.layer for r in records] == [None, "first", "second"]
    assert {r.status for r in records} == {"ok"}
    assert records[1].measurement is not None
    assert records[1].measurement.cache == "cold"
    assert [layer.name for layer in records[1].layers] == ["first"]


def test_dtype_and_batch_reach_the_backend() -> None:
    (record,) = measure(dtype=("bf16",), batch=(3,))
    assert record.status == "ok"
    assert record.check is not None and record.check.tolerance == 1e-2
    assert {x.name: x.flops for x in record.layers}["first"] == 3 * 2 * 16 * 4 * 9 * 64


@pytest.fixture
def pruned(tmp_path: Path) -> str:
    """A checkpoint of the tiny network, pruned to cs:4."""
    state, _ = sparsify_state(models.build(TINY).state_dict(), parse("cs:4"))
    path = tmp_path / "pruned.safetensors"
    checkpoints.save(path, state, {})
    return str(path)


def test_the_pattern_of_a_checkpoint_is_detected(pruned: str) -> None:
    (record,) = measure(checkpoint=(pruned,), pattern=(), sparsity=())
    assert (record.case.pattern, record.case.sparsity) == ("cs:4", 0.75)
    assert record.case.checkpoint.path == pruned
    assert record.case.checkpoint.sha256 is not None
    assert record.status == "ok"


def test_a_pattern_that_a_checkpoint_breaks_is_refused_with_the_place(pruned: str) -> None:
    with pytest.raises(PatternError, match=r"first.*nm|first at"):
        measure(checkpoint=(pruned,), pattern=("nm:1:4",), sparsity=())


def test_a_pattern_that_holds_loosely_is_a_row_of_the_sparsity_that_is_there(
    tmp_path: Path,
) -> None:
    state, _ = sparsify_state(models.build(TINY).state_dict(), parse("block:4x4@75%"))
    path = str(tmp_path / "pruned.safetensors")
    checkpoints.save(path, state, {})
    sweep = Sweep(
        model=(TINY,), checkpoint=(path,), pattern=("block:4x4@50%",),
        backend=("fake",), baseline=("fake",),
    )  # fmt: skip
    (case,) = Bench("cpu").plan(sweep)
    assert (case.pattern, case.sparsity) == ("block:4x4", 0.75)


def test_an_image_of_other_channels_is_refused_before_any_case() -> None:
    with pytest.raises(UsageError, match="4 channels, resnet20 takes 3; type --input-size 3x32x32"):
        measure(model=("resnet20",), input=((4, 32, 32),))


def test_a_checkpoint_takes_no_sparsity(pruned: str) -> None:
    with pytest.raises(UsageError, match="leave --sparsity out"):
        measure(checkpoint=(pruned,), sparsity=(0.5,))


def test_a_pattern_that_no_layer_can_carry_is_refused() -> None:
    with pytest.raises(PatternError, match=r"no layer of .* can carry block:64x64"):
        measure(pattern=("block:64x64",))


def test_the_same_weights_and_inputs_every_time() -> None:
    errors = [measure()[0].check for _ in range(2)]
    assert errors[0] == errors[1]

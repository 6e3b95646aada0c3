"""Dense ways are timed beside the baseline, once a workload; what fails is left out with why."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest
import torch

from csbench.backends import registry
from csbench.bench.baseline import Baselines
from csbench.bench.clocks import Run
from csbench.bench.weights import Library
from csbench.core.case import Case, CheckpointRef
from csbench.errors import BackendError
from tests.bench import misbehaving

HERE = Path(__file__).parent
TINY = f"{HERE / 'tiny.py'}:tiny"


class Wrong(misbehaving.OffByALittle):
    patterns = frozenset({"dense"})


class Broken(misbehaving.Raises):
    patterns = frozenset({"dense"})


class CountingClock:
    """The run that is seen as the n-th takes 6 + n milliseconds."""

    def __init__(self) -> None:
        self.rows: dict[Run, float] = {}

    def now(self) -> float:
        return 0.0

    def sample(self, run: Run, times: int) -> float:
        run()
        return self.rows.setdefault(run, 6.0 + len(self.rows))


@pytest.fixture
def alternatives(monkeypatch: pytest.MonkeyPatch) -> None:
    """On this CPU: one that is right, one that is wrong, and one that breaks."""
    names = [f"{__file__}:{one.__name__}" for one in (Wrong, Broken)]
    monkeypatch.setitem(registry.DENSE_ALTERNATIVES, "cpu", ("onednn", *names))


def case(**more: object) -> Case:
    given = {
        "model": TINY, "pattern": "cs:4", "sparsity": 0.75, "backend": "fake", "baseline": "fake",
        "device": "cpu", "input": (3, 8, 8), "checkpoint": CheckpointRef(seed=0),
    } | more  # fmt: skip
    return Case(**given)  # type: ignore[arg-type]


def baselines() -> Baselines:
    torch.set_num_threads(1)
    return Baselines(Library())


@torch.inference_mode()
def test_every_dense_way_in_its_precision_and_the_halves_has_samples_or_a_reason(
    alternatives: None,
) -> None:
    ways = baselines().get(case(), CountingClock(), 0, None).ways
    known = [d for d in ("fp32", "fp16", "bf16") if d in registry.get("onednn").dtypes]
    expected = [f"fake {d}" for d in ("fp32", "fp16", "bf16")]
    # A thousandth in every layer is too much for fp32 alone.
    right = [f"{__file__}:Wrong {d}" for d in ("fp16", "bf16")]
    assert set(ways.samples_ms) == {*expected, *(f"onednn {d}" for d in known), *right}
    assert all(len(samples) == 10 for samples in ways.samples_ms.values())
    assert median(ways.samples_ms["fake fp32"]) == 6.0  # the baseline itself, not a second one
    wrong = next(why for name, why in ways.left_out.items() if name.endswith("Wrong fp32"))
    assert wrong.startswith("wrong: relative error")
    broken = next(why for name, why in ways.left_out.items() if name.endswith("Broken fp32"))
    assert broken == "kernel launch failed"


@torch.inference_mode()
def test_no_way_of_a_workload_is_timed_twice() -> None:
    kept, clock = baselines(), CountingClock()
    single = kept.get(case(), clock, 0, None).ways
    again = kept.get(case(dtype="tf32"), clock, 0, None).ways
    assert set(again.samples_ms) - set(single.samples_ms) == {"fake tf32"}
    assert {name: again.samples_ms[name] for name in single.samples_ms} == single.samples_ms
    other = kept.get(case(batch=2), clock, 0, None).ways
    assert other.samples_ms["fake fp32"] != single.samples_ms["fake fp32"]


@torch.inference_mode()
def test_a_layer_has_its_baseline_and_no_other_ways() -> None:
    kept = baselines()
    assert kept.get(case(task="layer", layer="first"), CountingClock(), 0, None).ways == ({}, {})


@torch.inference_mode()
def test_a_wrong_baseline_is_refused_by_name() -> None:
    wrong = f"{HERE / 'misbehaving.py'}:OffByALittle"
    with pytest.raises(BackendError, match=r"baseline .*OffByALittle: wrong: relative error"):
        baselines().get(case(baseline=wrong), CountingClock(), 0, None)

"""A sweep becomes cases; what cannot run on this device or model is a case that says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from csbench.backends import registry
from csbench.bench.infer import Bench
from csbench.bench.messages import Settings
from csbench.bench.plan import plan
from csbench.bench.weights import Library
from csbench.core.axes import SPARSE_PATTERNS, Sweep, values
from csbench.core.case import NO_BACKEND, Case
from csbench.core.pattern import parse
from csbench.core.record import Record
from csbench.errors import PatternError

TINY = f"{Path(__file__).parent / 'tiny.py'}:tiny"


def cases(device: str = "cpu", **axes: object) -> list[Case]:
    return plan(Sweep(model=(TINY,), sparsity=(0.75,), **axes), device, Library())  # type: ignore[arg-type]


def record(case: Case) -> Record:
    return Bench("cpu").measure(case, Settings(), lambda *_: None)


def test_all_stands_for_every_sparse_pattern() -> None:
    assert values("pattern", ["all"]) == SPARSE_PATTERNS
    assert values("pattern", ["dense", " all", "cs"]) == ("dense", *SPARSE_PATTERNS)
    made = cases(pattern=("cs", "nm", "unstructured"))
    assert {parse(case.pattern).name for case in made} == {"cs", "nm", "unstructured"}


def test_a_pattern_that_only_another_device_runs_is_a_row_that_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "BUILT_IN", {
        name: target for name, target in registry.BUILT_IN.items() if name in ("cs", "onednn")
    })  # fmt: skip
    (case,) = cases(pattern=("cs",), dtype=("fp16",))
    assert case.backend == "cs"
    assert record(case).reason == "cs runs fp32 on cpu, not fp16"
    (case,) = cases(pattern=("unstructured",), task=("infer", "layer"))
    assert case.backend == NO_BACKEND
    made = record(case)
    assert made.status == "unsupported"
    assert (made.reason or "").startswith("no backend runs pattern 'unstructured'; see csbench")


def test_a_baseline_that_cannot_run_here_makes_the_row_unsupported() -> None:
    (case,) = cases(pattern=("cs",), backend=("fake",), baseline=("cudnn",))
    made = record(case)
    assert (made.status, made.reason) == (
        "unsupported", "baseline cudnn: cudnn runs on cuda, not on cpu",
    )  # fmt: skip


def test_beside_others_a_pattern_that_no_layer_can_carry_is_a_row_that_says_so() -> None:
    with pytest.raises(PatternError, match=r"no layer of .* can carry block:64x64"):
        cases(pattern=("block:64x64",), backend=("fake",))
    both = cases(pattern=("block:64x64", "cs"), backend=("fake",), baseline=("fake",))
    made = record(both[0])
    assert (made.case.pattern, made.status) == ("block:64x64", "unsupported")
    assert "can carry block:64x64" in (made.reason or "")


def test_by_layer_a_backend_of_another_device_has_one_row() -> None:
    (case,) = cases(pattern=("cs",), backend=("cudnn",), task=("layer",))
    assert (case.task, case.layer) == ("infer", None)

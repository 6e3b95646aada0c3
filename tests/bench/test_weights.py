"""Networks are built once, and kept as far as they fit."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from csbench.bench import weights
from csbench.bench.weights import Library
from csbench.core.case import Case, CheckpointRef

TINY = f"{Path(__file__).parent / 'tiny.py'}:tiny"


def case(sparsity: float, dtype: str = "fp32", batch: int = 1) -> Case:
    m = round(1 / (1 - sparsity))
    return Case(
        model=TINY, pattern=f"cs:{m}" if m > 1 else "dense", sparsity=sparsity, backend="fake",
        baseline="fake", device="cpu", dtype=dtype, batch=batch, input=(3, 8, 8),
        checkpoint=CheckpointRef(seed=0),
    )  # fmt: skip


def test_cases_of_other_precisions_and_batches_share_a_network() -> None:
    library = Library()
    first = [library.sparse(case(s)) for s in (0.5, 0.75)]
    again = [library.sparse(case(s, "fp16", 4)) for s in (0.5, 0.75)]
    assert all(a is b for a, b in zip(first, again, strict=True))
    assert library.dense(case(0.5)) is library.sparse(case(0.0))


def test_the_search_of_a_pattern_is_timed_when_its_network_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter((1.0, 3.5))
    monkeypatch.setattr(weights, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    library = Library()
    assert library.sparse(case(0.5)).mask_ms == 2500
    assert library.sparse(case(0.5, "fp16", 4)).mask_ms == 2500  # nothing is searched again
    assert library.dense(case(0.5)).mask_ms is None


def test_the_network_used_longest_ago_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    half, quarter = (library.sparse(case(s)) for s in (0.5, 0.75))
    assert library.sparse(case(0.5)) is half
    monkeypatch.setattr(weights, "_KEPT_BYTES", 2.5 * half.bytes)
    library.sparse(case(0.875))
    assert library.sparse(case(0.5)) is half
    assert library.sparse(case(0.75)) is not quarter


def test_the_last_network_stays_however_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_KEPT_BYTES", 0)
    library = Library()
    assert library.sparse(case(0.5)) is library.sparse(case(0.5))

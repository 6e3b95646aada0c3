"""Why a case cannot run here, and what runs its pattern instead."""

from __future__ import annotations

import pytest

from csbench.bench.draft import Outcome
from csbench.bench.support import able
from tests.backends.cases import case


@pytest.mark.parametrize(
    ("backend", "pattern", "dtype", "instead"),
    [
        ("block-cutlass", "block:32x32", "fp32", "block-original"),
        ("ovw", "ovw:32", "fp32", "csr"),
        ("ovw", "ovw:32", "fp16", None),
        ("cudnn", "dense", "fp32", "onednn"),
    ],
)
def test_a_gpu_s_backend_names_what_runs_its_pattern_on_a_cpu(
    backend: str, pattern: str, dtype: str, instead: str | None
) -> None:
    given = case(backend=backend, pattern=pattern, sparsity=0.5, dtype=dtype, baseline="onednn")
    with pytest.raises(Outcome) as raised:
        able(given)
    advice = f"; on a CPU --backend {instead} runs this pattern" if instead else ""
    assert str(raised.value) == f"{backend} runs on cuda, not on cpu{advice}"

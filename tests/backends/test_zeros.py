"""Infinity times zero tells which kernels leave zeros out; our own do."""

from __future__ import annotations

import pytest
import torch

from csbench.backends import registry
from csbench.backends.conformance.layers import trials
from csbench.backends.zeros import multiplies_zeros
from csbench.core.pattern import parse


@pytest.mark.parametrize(
    ("name", "pattern", "dense"),
    [
        ("block-original", "block:16x16@0.75", False),
        ("cs", "cs:4", False),
        ("onednn", "cs:4", True),
        ("masked", "block:16x16@0.75", True),
        ("fake", "cs:4", True),
    ],
)
def test_dense_kernels_meet_the_zeros_and_sparse_ones_do_not(
    name: str, pattern: str, dense: bool
) -> None:
    backend = registry.get(name)
    if (missing := backend.missing("cpu")) is not None:
        pytest.skip(missing)
    found = []
    with torch.inference_mode():
        for trial in trials(name, "onednn", "cpu", "fp32", parse(pattern), 0):
            conv, case = trial.conv, trial.case
            if conv.pattern is not None and backend.why_not(conv, case) is None:
                found.append(multiplies_zeros(backend.lower(conv, case), conv, case))
    assert len(found) > 3
    assert any(found) if dense else not any(found)

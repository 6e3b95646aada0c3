"""Choosing by measurement on a GPU."""

from __future__ import annotations

import pytest
import torch

from csbench.kernels import search

pytestmark = pytest.mark.gpu


def test_measure_tells_more_work_from_less_and_skips_what_fails() -> None:
    small, large = torch.zeros(1 << 10, device="cuda"), torch.zeros(1 << 26, device="cuda")

    def broken() -> None:
        raise RuntimeError("no such algorithm")

    found = {"small": small.neg, "large": large.neg, "broken": broken}
    times = search.measure(found)
    assert list(times) == ["small", "large"]
    assert times["large"] > 5 * times["small"]

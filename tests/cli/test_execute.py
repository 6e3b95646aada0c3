"""What is said before the first case is measured."""

from __future__ import annotations

import io

import msgspec
import pytest

from csbench.bench.progress import Reporter
from csbench.cli.execute import _announce
from csbench.core.case import Case
from csbench.core.stop import StopRule

CASE = Case(model="m", pattern="cs", sparsity=0.5, backend="cs", baseline="b", device="cpu")


@pytest.mark.parametrize(
    ("device", "workers", "said"),
    [
        ("cpu", 1, "3 cases on cpu (2 more are there already), about 18 s to 60 s"),
        ("cuda", 1, "3 cases on cuda (2 more are there already), about 63 s to 2 min"),
        ("cuda", 3, "3 cases on cuda (2 more are there already), about 21 s to 35 s"),
    ],
)
def test_the_estimate_counts_what_comes_before_the_samples(
    device: str, workers: int, said: str
) -> None:
    """On a GPU that is mostly compiling and choosing tiles."""
    stream = io.StringIO()
    cases = [msgspec.structs.replace(CASE, device=device)] * 3
    _announce(cases, StopRule(), 2, Reporter(stream=stream), workers)
    assert stream.getvalue().splitlines()[-1] == said

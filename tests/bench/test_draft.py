"""Whether a time can be believed, from invented records."""

from __future__ import annotations

from typing import Literal

import pytest

from csbench.bench.draft import Draft
from csbench.bench.messages import Settings
from csbench.bench.sampling import Pairs
from csbench.core.case import Case, CheckpointRef
from csbench.core.record import Measurement
from csbench.core.stop import StopRule

CEILINGS = {"copy_gb_s": 4000.0, "fp16_tflop_s": 800.0, "launch_us": 2.5}


def draft(
    ms: float,
    mode: Literal["graph", "eager"] = "graph",
    cache: Literal["cold", "warm"] = "warm",
    least_bytes: int = 0,
) -> Draft:
    case = Case(
        model="tiny", pattern="cs:4", sparsity=0.75, backend="fake", baseline="fake",
        device="cuda", dtype="fp16", batch=1, input=(3, 8, 8), checkpoint=CheckpointRef(seed=0),
    )  # fmt: skip
    made = Draft(case, Settings(stop=StopRule(), cache=cache), {})
    made.measurement = Measurement(mode=mode, cache=cache, warmup=0, samples_ms=(ms,))
    made.least_bytes = least_bytes
    return made


@pytest.mark.parametrize(
    ("ms", "mode", "cache", "refused"),
    [
        (0.0019, "graph", "warm", True),
        (0.0021, "graph", "warm", False),
        (0.0019, "eager", "warm", False),
        (0.0019, "graph", "cold", False),  # timed one by one, as no empty graph was
    ],
)
def test_replays_faster_than_an_empty_graph_are_refused(
    ms: float, mode: Literal["graph", "eager"], cache: Literal["cold", "warm"], refused: bool
) -> None:
    assert bool(draft(ms, mode, cache).too_fast(CEILINGS)) is refused


@pytest.mark.parametrize(("ms", "refused"), [(0.79, True), (0.81, False)])
def test_a_run_that_moves_its_bytes_faster_than_memory_is_refused(ms: float, refused: bool) -> None:
    assert bool(draft(ms, least_bytes=4 * 10**9).too_fast(CEILINGS)) is refused


def test_a_doubtful_time_keeps_what_was_to_be_said_of_it() -> None:
    made = draft(0.001)
    made.reason = "the GPU ran at 1.20 of 1.98 GHz"
    made.judge(Pairs((0.001,), (0.002,), ((0.0, 0.1),), settled=True), CEILINGS)
    assert made.status == "invalid"
    assert (made.reason or "").startswith("0.001 ms is below the physical floor")
    assert (made.reason or "").endswith("; the GPU ran at 1.20 of 1.98 GHz")

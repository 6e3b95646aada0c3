"""Which samples were taken while the GPU held its clock down: from invented readings."""

from __future__ import annotations

from csbench.bench.nvml import POWER_CAP, Reading, summary, throttled

THERMAL = 0x40


def reading(at: float, sm_mhz: int = 1980, reasons: int = 0) -> Reading:
    return Reading(at, sm_mhz, 3201, 650.0, 60, reasons)


SPANS = [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)]


def test_a_quiet_gpu_marks_nothing() -> None:
    assert throttled([reading(0.5), reading(1.5), reading(2.5)], SPANS) == ()
    assert throttled([], SPANS) == ()


def test_spans_with_a_throttle_reason_are_marked() -> None:
    assert throttled([reading(0.5), reading(1.5, reasons=THERMAL), reading(2.5)], SPANS) == (1,)


def test_spans_with_a_dropped_clock_are_marked_without_a_reason() -> None:
    assert throttled([reading(0.5), reading(1.5), reading(2.5, sm_mhz=1200)], SPANS) == (2,)


def test_a_power_cap_alone_is_reported_but_not_a_fault() -> None:
    capped = [reading(0.5, reasons=POWER_CAP), reading(1.5), reading(2.5)]
    assert throttled(capped, SPANS) == ()
    assert summary(capped)["power_capped"] == round(1 / 3, 3)


def test_the_summary_names_what_held_the_clock_down() -> None:
    found = summary([reading(0.5), reading(1.5, 1200, THERMAL | 0x80)])
    assert found["held_down"] == ["power brake", "thermal"]
    assert found["sm_mhz"] == [1200, 1980]
    assert summary([]) == {}

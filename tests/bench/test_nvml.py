"""What a GPU says of itself: from invented readings, and an invented driver."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import pytest

from csbench.bench.nvml import POWER_CAP, Nvml, Reading, low_clock, summary, throttled

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


@pytest.mark.parametrize(
    ("slow_at", "marked"),
    [(0.00, (0, 1)), (0.02, (0, 1, 2, 3)), (0.04, (2, 3, 4))],
)
def test_a_span_between_readings_is_slow_if_either_neighbour_is(
    slow_at: float, marked: tuple[int, ...]
) -> None:
    readings = [reading(at, reasons=THERMAL * (at == slow_at)) for at in (0.00, 0.02, 0.04)]
    spans = [(0.002, 0.008), (0.011, 0.019), (0.021, 0.029), (0.031, 0.039), (0.041, 0.049)]
    assert throttled(readings, spans) == marked


def test_a_span_with_its_own_readings_is_judged_by_them() -> None:
    readings = [reading(0.00, reasons=THERMAL), reading(0.02), reading(0.04, reasons=THERMAL)]
    assert throttled(readings, [(0.01, 0.03)]) == ()


def test_spans_outside_all_readings_take_the_nearest() -> None:
    readings = [reading(1.0, reasons=THERMAL), reading(2.0)]
    assert throttled(readings, [(0.0, 0.5), (2.5, 3.0)]) == (0,)


def test_a_clock_that_is_low_throughout_is_noted_and_no_fault() -> None:
    low = [reading(at, sm_mhz=1200, reasons=POWER_CAP) for at in (0.5, 1.5, 2.5)]
    assert throttled(low, SPANS) == ()
    assert low_clock(low, 1980) == "the GPU ran at 1.20 of 1.98 GHz"
    assert summary(low, 1980)["sm_mhz_highest"] == 1980
    assert low_clock(low, 1300) is low_clock(low, None) is low_clock([], 1980) is None


def test_the_summary_names_what_held_the_clock_down() -> None:
    found = summary([reading(0.5), reading(1.5, 1200, THERMAL | 0x80)])
    assert found["held_down"] == ["power brake", "thermal"]
    assert found["sm_mhz"] == [1200, 1980]
    assert summary([]) == {}


@pytest.mark.parametrize(("code", "counted"), [(7, 3), (0, 0), (3, None), (None, None)])
def test_the_processes_of_a_gpu_are_counted_where_the_driver_says(
    monkeypatch: pytest.MonkeyPatch, code: int | None, counted: int | None
) -> None:
    class Driver:
        """Whatever is called succeeds, but the counting (None: too old for it)."""

        def __getattr__(self, name: str) -> Callable[..., int]:
            if "Running" not in name:
                return lambda *_: 0
            if code is None:
                raise AttributeError(name)
            return count

    def count(device: object, number: Any, infos: object) -> int:
        assert number._obj.value == 0
        assert infos is None
        number._obj.value = counted or 0
        assert code is not None
        return code

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    assert Nvml("GPU-1").processes() == counted

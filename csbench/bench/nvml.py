"""Clocks, power, temperature and throttle reasons of a GPU, through the driver's own library.

libnvidia-ml comes with every driver, so ctypes needs nothing to be installed.
"""

from __future__ import annotations

import ctypes
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from statistics import median
from types import TracebackType
from typing import Any, NamedTuple

_SM_CLOCK, _MEMORY_CLOCK = 1, 2
_SUCCESS, _NO_ROOM = 0, 7  # what its functions return
# Reasons by which the hardware holds its clock down against its will (nvmlClocksEventReasons).
# The software power cap is not among them: it is how a GPU at full load behaves; a clock that
# really falls is noticed as such.
HARDWARE_SLOWDOWN = {0x08: "hardware slowdown", 0x20: "software thermal", 0x40: "thermal",
                     0x80: "power brake"}  # fmt: skip
POWER_CAP = 0x04
DROPPED = 0.9  # a clock below this share of the run's median, or of the GPU's highest, is low


class Reading(NamedTuple):
    """One look at a GPU: seconds on time.perf_counter, MHz, watts, degrees Celsius, bit mask."""

    at: float
    sm_mhz: int
    memory_mhz: int
    watts: float
    celsius: int
    reasons: int


class Nvml:
    """One GPU, by the UUID that torch gives; raises OSError where the library or GPU is absent."""

    def __init__(self, uuid: str) -> None:
        self._lib = ctypes.CDLL("libnvidia-ml.so.1")
        self._call("nvmlInit_v2")
        self._device = ctypes.c_void_p()
        name = uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"
        self._call("nvmlDeviceGetHandleByUUID", name.encode(), ctypes.byref(self._device))

    def read(self) -> Reading:
        reasons = ctypes.c_ulonglong()
        self._call("nvmlDeviceGetCurrentClocksThrottleReasons", self._device, ctypes.byref(reasons))
        return Reading(
            time.perf_counter(),
            self._number("nvmlDeviceGetClockInfo", _SM_CLOCK),
            self._number("nvmlDeviceGetClockInfo", _MEMORY_CLOCK),
            self._number("nvmlDeviceGetPowerUsage") / 1000,
            self._number("nvmlDeviceGetTemperature", 0),
            reasons.value,
        )

    def joules(self) -> float | None:
        """Energy used since the driver was loaded; None where the GPU does not count it."""
        energy = ctypes.c_ulonglong()
        try:
            self._call("nvmlDeviceGetTotalEnergyConsumption", self._device, ctypes.byref(energy))
        except OSError:
            return None
        return energy.value / 1000

    def processes(self) -> int | None:
        """How many processes have a context on this GPU; None where the driver does not say.

        0 too says nothing: in some containers it shows none, not even this one. A server that
        shares the GPU among clients (MPS) may count as one more.
        """
        count = ctypes.c_uint()
        try:  # with no room for them it only counts them
            code = self._lib.nvmlDeviceGetComputeRunningProcesses_v3(
                self._device, ctypes.byref(count), None
            )
        except AttributeError:
            return None
        return count.value if code in (_SUCCESS, _NO_ROOM) else None

    def highest_sm_mhz(self) -> int | None:
        """The highest clock that this GPU can be set to; None where the driver does not say."""
        try:
            return self._number("nvmlDeviceGetMaxClockInfo", _SM_CLOCK) or None
        except (OSError, AttributeError):
            return None

    def driver(self) -> str:
        """The driver's version."""
        text = ctypes.create_string_buffer(96)
        self._call("nvmlSystemGetDriverVersion", text, 96)
        return text.value.decode()

    def _number(self, function: str, *arguments: int) -> int:
        value = ctypes.c_uint()
        self._call(function, self._device, *arguments, ctypes.byref(value))
        return value.value

    def _call(self, function: str, *arguments: Any) -> None:
        if code := getattr(self._lib, function)(*arguments):
            raise OSError(code, f"{function} failed with NVML error {code}")


class Watch:
    """Readings of a GPU in the background for the length of a block."""

    def __init__(self, gpu: Nvml, every: float = 0.02) -> None:
        self._gpu, self._every = gpu, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.readings: list[Reading] = []

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.is_set():
            try:
                self.readings.append(self._gpu.read())
            except OSError:  # a GPU that refuses once (lost permission, reset) refuses again
                return
            self._stop.wait(self._every)


def throttled(readings: Sequence[Reading], spans: Sequence[tuple[float, float]]) -> tuple[int, ...]:
    """Indices of the spans (start, end) in which the GPU held its clock down, or it dropped.

    A span with readings of its own is judged by them. One between two readings counts as slow if
    either of them is: nobody saw when the state changed, and a mark too many costs a repeated
    measurement where one too few publishes a slow time. Readings are in order of time.
    """
    if not readings:
        return ()
    usual = median(reading.sm_mhz for reading in readings)
    at = [reading.at for reading in readings]
    slow = [bool(held_down(r)) or r.sm_mhz < DROPPED * usual for r in readings]

    def marked(start: float, end: float) -> bool:
        first, last = bisect_left(at, start), bisect_right(at, end)
        return any(slow[first:last] if first < last else slow[max(first - 1, 0) : first + 1])

    return tuple(i for i, span in enumerate(spans) if marked(*span))


def held_down(reading: Reading) -> list[str]:
    """Names of the reasons by which the hardware holds the clock down."""
    return [name for bit, name in HARDWARE_SLOWDOWN.items() if reading.reasons & bit]


def summary(readings: Sequence[Reading], highest_mhz: int | None = None) -> dict[str, object]:
    """What the readings of one measurement say, for its record.

    `sm_mhz` is the lowest and the highest clock, `sm_mhz_median` the usual one, `sm_mhz_highest`
    what the GPU can be set to (left out where unknown), `power_capped` a share of the readings.
    """
    if not readings:
        return {}
    found: dict[str, object] = {
        "sm_mhz": [min(r.sm_mhz for r in readings), max(r.sm_mhz for r in readings)],
        "sm_mhz_median": round(median(r.sm_mhz for r in readings)),
        "watts": round(median(r.watts for r in readings), 1),
        "celsius": max(r.celsius for r in readings),
        "power_capped": round(
            sum(bool(r.reasons & POWER_CAP) for r in readings) / len(readings), 3
        ),
        "held_down": sorted({name for r in readings for name in held_down(r)}),
    }
    return found if highest_mhz is None else found | {"sm_mhz_highest": highest_mhz}


def low_clock(readings: Sequence[Reading], highest_mhz: int | None) -> str | None:
    """Words for a clock that was low all along, which no comparison with its own median shows.

    A note, no fault: a GPU at its power limit, or set to a lower clock, runs so for as long as the
    load lasts, and dense and sparse ran alike.
    """
    if not readings or highest_mhz is None:
        return None
    usual = median(reading.sm_mhz for reading in readings)
    if usual >= DROPPED * highest_mhz:
        return None
    return f"the GPU ran at {usual / 1e3:.2f} of {highest_mhz / 1e3:.2f} GHz"

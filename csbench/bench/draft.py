"""A record in the making: what is known so far of a case, and whether its time can be believed."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, Literal

import msgspec

from csbench.bench import limits
from csbench.bench.check import passed
from csbench.bench.messages import Settings
from csbench.bench.sampling import Pairs
from csbench.core.case import Case
from csbench.core.record import Check, LayerReport, Measurement, Record, Sparsity, Status
from csbench.core.statistics import median

# A row is invalid when the GPU held its clock down in more than this share of its pairs.
MOST_THROTTLED = 0.1
# A layer that takes less than this many launches of an empty graph waits for the host.
_LAUNCH_BOUND = 2.0


class Outcome(Exception):  # noqa: N818 (no error: what became of a case that carries no time)
    """Ends a case with a status and the reason."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Draft:
    """Filled in step by step; `record` is what it came to, wherever it ended."""

    def __init__(self, case: Case, settings: Settings, env: dict[str, Any]) -> None:
        self.case, self.settings, self.env = case, settings, dict(env)
        self.status: Status = "ok"
        self.reason: str | None = None
        self.measurement: Measurement | None = None
        self.check: Check | None = None
        self.layers: tuple[LayerReport, ...] = ()
        self.sparsity: Sparsity | None = None
        self.mask_ms: float | None = None
        self.prepare_ms: float | None = None
        self.peak_bytes: int | None = None
        self.least_bytes = 0  # that cross a GPU's memory at every run, as far as it is known
        if settings.workers > 1:  # GPUs of one host share its power, its links and its processor
            self.env["workers"] = settings.workers

    @property
    def cache(self) -> Literal["cold", "warm"]:
        return self.settings.cache or ("cold" if self.case.task == "layer" else "warm")

    def checked(self, found: Check) -> None:
        """Keep the worst check of all; raises Outcome when the output is wrong."""
        worst = 0.0 if self.check is None else self.check.relative_error or 0.0
        if not passed(found) or (found.relative_error or 0.0) >= worst:
            self.check = found
        if not passed(found):
            reason = f"relative error {found.relative_error:.1e}, allowed {found.tolerance:.1e}"
            raise Outcome("wrong", reason)

    def too_fast(self, known: limits.Ceilings) -> str | None:
        """Why the time is impossible on this device; None when it is not."""
        assert self.measurement is not None
        time_ms = median(self.measurement.samples_ms)
        flops = sum(layer.flops for layer in self.layers)
        # The empty graph was timed back to back, and so bounds only what is.
        replayed = self.measurement.mode == "graph" and self.cache == "warm"
        floor = limits.hard_floor_ms(flops, known, self.least_bytes, replayed)
        if time_ms >= floor:
            return None
        return f"{time_ms:.4g} ms is below the physical floor of {floor:.4g} ms"

    def judge(self, pairs: Pairs, known: limits.Ceilings) -> None:
        """Whether the samples can be believed: invalid, noisy or ok, and why."""
        if doubt := self.too_fast(known) or self._held_down():
            self.doubted("invalid", doubt)
        elif not pairs.settled:
            self.doubted("noisy", self._unsettled(pairs))
        if self.case.task == "layer" and "launch_us" in known:
            launch_ms = known["launch_us"] / 1e3
            self.env["launch_bound"] = median(pairs.samples_ms) < _LAUNCH_BOUND * launch_ms

    def doubted(self, status: Status, why: str) -> None:
        """A time that is not to be believed as it is, and why; what else was to be said stays."""
        self.status, self.reason = status, "; ".join(filter(None, (why, self.reason)))

    def fail(self, status: Status, reason: str) -> None:
        """End without a time."""
        self.status, self.reason, self.measurement = status, reason, None

    def record(self) -> Record:
        return Record(
            created=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            key=self.case.key,
            case=self.case,
            status=self.status,
            reason=self.reason,
            measurement=self.measurement,
            check=self.check,
            layers=self.layers,
            sparsity=self.sparsity,
            mask_ms=msgspec.UNSET if self.mask_ms is None else self.mask_ms,
            prepare_ms=self.prepare_ms,
            peak_bytes=self.peak_bytes,
            env=self.env,
        )

    def _unsettled(self, pairs: Pairs) -> str:
        stop, count = self.settings.stop, len(pairs.samples_ms)
        width = pairs.speedup.half_width
        if width < stop.max_noise:
            return f"{count} pairs in {stop.max_time:g} s are too few; raise --max-time"
        wanted = f"asked for {100 * stop.max_noise:g} %"
        return f"interval ±{100 * width:.1f} % after {count} pairs, {wanted}"

    def _held_down(self) -> str | None:
        measured = self.measurement
        assert measured is not None
        share = len(measured.throttled) / len(measured.samples_ms)
        if share <= MOST_THROTTLED:
            return None
        return f"the GPU held its clock down in {100 * share:.0f} % of the samples"

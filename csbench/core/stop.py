"""When a measurement is long enough."""

from __future__ import annotations

import math

import msgspec

from csbench.errors import UsageError


class StopRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Measure until the interval's half-width is below `max_noise` and `min_time` has been spent.

    `max_time` bounds it (the verdict is then `noisy`); `runs`, when given, fixes the number of
    pairs instead. `warmup` counts untimed runs of each network, at least one of each copy unless
    it is 0; `copies` how many copies of each network, at addresses of their own, are sampled in
    turn (by default what suits the device; making them takes at most about `max_time` too). Times
    are in seconds, noise a fraction.
    """

    warmup: int = 5
    runs: int | None = None
    copies: int | None = None
    min_time: float = 1.0
    max_time: float = 15.0
    max_noise: float = 0.01
    timeout: float = 600.0

    def __post_init__(self) -> None:
        # The longest time first: what is left out follows it.
        for name in ("max_time", "min_time", "max_noise", "timeout"):
            if not 0 < getattr(self, name) < math.inf:  # JSON has no infinity for a worker to read
                raise UsageError(
                    f"{name} is {getattr(self, name):g}; expected a finite number above 0"
                )
        counts = [count for count in (self.runs, self.copies) if count is not None]
        if self.warmup < 0 or min(counts, default=1) < 1:
            raise UsageError("warmup is at least 0, runs and copies at least 1")
        if self.min_time > self.max_time:
            raise UsageError(
                f"min_time {self.min_time:g} s is longer than max_time {self.max_time:g} s; "
                "raise max_time too"
            )


# Of a training the samples are whole steps, which take long and vary more than a forward pass does.
TRAINING = StopRule(warmup=2, min_time=2.0, max_time=60.0, max_noise=0.02, timeout=1800.0)

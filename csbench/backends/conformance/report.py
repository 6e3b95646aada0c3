"""What the kit found: one outcome a check, each failure with a named reason."""

from __future__ import annotations

from typing import Literal

import msgspec

Reason = Literal[
    "bad-declaration",  # attributes of the wrong type or with unknown names
    "refuses-everything",  # why_not has a reason against every layer
    "raises",  # an exception where a result was due
    "lazy-output",  # not a plain tensor in memory: a subclass, a deferred computation
    "wrong-shape",  # or the wrong precision or device
    "never-written",  # the output still holds what was in its memory before
    "unfinished",  # the output changes after the call: work left on another stream or thread
    "wrong-permutation",  # the right channels in the wrong order
    "wrong-stride",  # the right numbers in a memory order that the strides do not tell
    "inaccurate",  # close, but not within the precision's tolerance
    "right-on-some-shapes-only",
    "wrong-result",
    "cached-result",  # an earlier result for new inputs
    "shared-output",  # a result that the next call overwrites
    "not-deterministic",
    "input-modified",
    "multiplies-zeros",  # declares a pattern and runs dense
    "other-stream",  # work that is not ordered on torch's current stream
    "bad-layer-report",  # a whole-network path that does not say what ran in each layer
]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One check: passed, failed for a reason, or skipped because it does not apply."""

    check: str
    status: Literal["ok", "failed", "skipped"]
    reason: Reason | None = None
    detail: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All checks of one backend in one precision on one pattern."""

    backend: str
    device: str
    dtype: str
    pattern: str
    outcomes: tuple[Outcome, ...]

    @property
    def passed(self) -> bool:
        return all(outcome.status != "failed" for outcome in self.outcomes)

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Why it was rejected, the most telling reason first."""
        return tuple(o.reason for o in self.outcomes if o.reason is not None)


class NotApplicable(Exception):  # noqa: N818 (a verdict, not an error)
    """A check that this backend or device has no use for, and why."""


class Rejected(Exception):  # noqa: N818
    """A check's failure; the kit turns it into an outcome."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason: Reason = reason
        self.detail = detail

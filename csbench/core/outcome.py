"""From what became of the cases to the exit code of the command."""

from __future__ import annotations

from collections.abc import Iterable

from csbench.core.record import Status

OK, FAILED, DOUBTFUL, TIMED_OUT = 0, 3, 5, 124

_CODES: dict[Status, int] = {
    "ok": OK,
    "noisy": DOUBTFUL,
    "invalid": DOUBTFUL,
    "unsupported": OK,
    "wrong": FAILED,
    "oom": FAILED,
    "error": FAILED,
    "timeout": TIMED_OUT,
}
_WORST_FIRST = (FAILED, TIMED_OUT, DOUBTFUL, OK)


def exit_code(statuses: Iterable[Status]) -> int:
    """The worst of all: 3 failed, 124 timed out, 5 noisy or invalid, 0 all valid.

    What cannot run here is no failure, unless nothing ran at all.
    """
    seen = set(statuses)
    if seen == {"unsupported"}:
        return FAILED
    return worst(_CODES[status] for status in seen)


def worst(codes: Iterable[int]) -> int:
    """The exit code that counts when several parts of a run have one each."""
    given = set(codes)
    return next((code for code in _WORST_FIRST if code in given), OK)

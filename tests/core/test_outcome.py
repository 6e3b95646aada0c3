"""One table of exit codes."""

from __future__ import annotations

from typing import get_args

import pytest

from csbench.core.outcome import exit_code, worst
from csbench.core.record import Status


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        ([], 0),
        (["ok", "ok"], 0),
        (["ok", "unsupported"], 0),
        (["unsupported"], 3),
        (["ok", "noisy"], 5),
        (["invalid"], 5),
        (["ok", "timeout", "noisy"], 124),
        (["timeout", "wrong"], 3),
        (["ok", "oom"], 3),
        (["error", "noisy"], 3),
    ],
)
def test_the_worst_status_decides(statuses: list[Status], code: int) -> None:
    assert exit_code(statuses) == code


@pytest.mark.parametrize(
    ("codes", "code"), [((3, 5), 3), ((5, 3), 3), ((0, 5), 5), ((5, 124), 124), ((0, 0), 0)]
)
def test_the_worst_part_of_a_suite_decides(codes: tuple[int, int], code: int) -> None:
    assert worst(codes) == code


def test_every_status_has_a_code() -> None:
    assert all(exit_code([status, "ok"]) in (0, 3, 5, 124) for status in get_args(Status))

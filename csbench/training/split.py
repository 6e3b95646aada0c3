"""How long the parts of a step take: marks on the host's clock, or CUDA events on the stream."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

Mark = Callable[[str], None]
PARTS = ("data", "mask", "forward", "backward", "regulariser", "optimiser")
AHEAD = "ahead"  # what a GPU had still to do when the host had queued the step


class Marks:
    """The moments at which parts end; on a GPU nothing waits until `parts` is asked for."""

    def __init__(self, device: str) -> None:
        self._cuda = device == "cuda"
        self._ends: list[tuple[str, Any]] = [("", self._now())]

    def __call__(self, part: str) -> None:
        self._ends.append((part, self._now()))

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter_ns()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def parts(self) -> dict[str, float]:
        """Milliseconds by part, those of equal names added up; and how far the host was ahead."""
        found = dict.fromkeys(PARTS, 0.0)
        if self._cuda:
            begun = time.perf_counter()
            torch.cuda.synchronize()
            found[AHEAD] = (time.perf_counter() - begun) * 1e3
        for (_, begin), (part, end) in zip(self._ends, self._ends[1:], strict=False):
            found[part] += begin.elapsed_time(end) if self._cuda else (end - begin) / 1e6
        return found


def split(
    step: Callable[[Mark | None], None], device: str, count: int
) -> dict[str, tuple[float, ...]]:
    """`count` samples of every part of a step; on a GPU each step follows one without marks."""
    rows = []
    for _ in range(count):
        if device == "cuda":
            step(None)  # so that the host is ahead of the GPU, as in a training
        marks = Marks(device)
        step(marks)
        rows.append(marks.parts())
    return {part: tuple(row[part] for row in rows) for part in rows[0]}

"""Progress on stderr: a bar with the time left on a terminal, plain lines with -v elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from csbench.bench.messages import Progress
from csbench.core.case import Case
from csbench.core.record import Record
from csbench.core.statistics import middle, speedup

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID


class Reporter:
    """Says what happens: nothing (quiet), a bar (on a terminal), or a line a case (verbose)."""

    def __init__(
        self, *, verbose: bool = False, quiet: bool = False, color: bool | None = None,
        stream: TextIO | None = None,
    ) -> None:  # fmt: skip
        self._stream = stream or sys.stderr
        self._verbose, self._quiet, self._color = verbose, quiet, color
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._begun: dict[str, float] = {}
        self._done = self._total = 0

    def begin(self, cases: int) -> Reporter:
        """Say how many cases come; use it as a context."""
        self._total = cases
        return self

    def __enter__(self) -> Reporter:
        if self._stream.isatty() and not self._quiet and self._total:
            self._bar = _bar(self._stream, self._color)
            self._task = self._bar.add_task("", total=float(self._total), what="starting")
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def say(self, line: str) -> None:
        """One line, unless quiet."""
        if not self._quiet:
            self._print(line)

    def started(self, case: Case) -> None:
        self._begun[case.key] = time.monotonic()
        self._show(f"{title(case)}: preparing", self._done)

    def progress(self, case: Case, heard: Progress) -> None:
        noise = "" if heard.half_width is None else f", ±{100 * heard.half_width:.1f} %"
        self._show(f"{title(case)}: {heard.phase}{noise}", self._done + 0.95 * heard.share)

    def retried(self, case: Case, reason: str) -> None:
        if self._verbose:
            self._print(f"{title(case)}: {reason}; trying in a new process")

    def finished(self, record: Record) -> None:
        self._done += 1
        spent = time.monotonic() - self._begun.pop(record.key, time.monotonic())
        if self._verbose:
            line = f"{title(record.case)}: {outcome(record)}"
            self._print(f"[{self._done}/{self._total}] {line} ({spent:.0f} s)")
        self._show("", self._done)

    def _show(self, what: str, completed: float) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, what=what, completed=completed)

    def _print(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=self._stream, flush=True)


def title(case: Case) -> str:
    """A case in a few words: `resnet50 block:32x32 75 % block-original batch 1`."""
    layer = f" {case.layer}" if case.layer else ""
    dtype = "" if case.dtype == "fp32" else f" {case.dtype}"
    return (
        f"{case.model}{layer} {case.pattern} {100 * case.sparsity:g} % {case.backend}{dtype} "
        f"batch {case.batch}"
    )


def outcome(record: Record) -> str:
    """What became of a case in a few words: `12.3 ms, 1.52x (±0.6 %)` or its status and reason."""
    if record.measurement is None:
        return f"{record.status}: {record.reason}" if record.reason else record.status
    measured = record.measurement
    found = speedup(measured.samples_ms, measured.baseline_samples_ms, measured.copies)
    mark = "" if record.status == "ok" else f" {record.status}: {record.reason}"
    time_ms = middle(measured.samples_ms, measured.copies)
    return f"{time_ms:.4g} ms, {found.ratio:.2f}x (±{100 * found.half_width:.1f} %){mark}"


def _bar(stream: TextIO, color: bool | None) -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    console = Console(file=stream, no_color=None if color is None else not color)
    return RichProgress(
        MofNCompleteColumn(), BarColumn(bar_width=20), TimeRemainingColumn(),
        TextColumn("{task.fields[what]}", markup=False), console=console, transient=True,
    )  # fmt: skip

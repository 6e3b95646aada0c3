"""The parent: feeds cases to worker processes and saves each record at once. Never imports torch.

A case that hangs, crashes or runs out of memory takes its worker with it; that is its record, and
the next case gets a new worker. A case whose baseline is slow in one worker is tried in another.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from typing import Any

import msgspec

from csbench.bench.environment import host
from csbench.bench.messages import (
    Done,
    Measure,
    Plan,
    Planned,
    Progress,
    Ready,
    Refused,
    Settings,
    Slow,
)
from csbench.bench.process import Worker
from csbench.bench.progress import Reporter
from csbench.core.axes import Sweep
from csbench.core.case import Case
from csbench.core.record import Record, Status
from csbench.errors import BackendError, CsbenchError, UsageError

_GRACE = 10.0  # seconds between a worker's last reply and the end of its process
_LOOK_EVERY = 0.2  # seconds between looks at the clock while workers are silent
# Loading torch from a cold disk, and detecting the pattern of a large checkpoint.
_PLAN_TIMEOUT = 600.0


class Runner:
    """Plans and measures on one or more devices of the same kind; a context that ends its workers.

    `devices` is one name ("auto", "cpu", "cuda:1"), or several GPUs that share the cases.
    """

    def __init__(self, devices: Sequence[str], settings: Settings, reporter: Reporter) -> None:
        self._settings = msgspec.structs.replace(settings, workers=len(devices))
        self._reporter = reporter
        here = host()
        threads = settings.threads or _share_of_cores(here["cores"], len(devices))
        self._desks = [_Desk(device, threads, here) for device in devices]

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        for desk in self._desks:
            desk.end()

    def plan(self, sweep: Sweep) -> list[Case]:
        """The cases of a sweep on this runner's devices; raises the worker's UsageError.

        A worker does this, because checkpoints and backends cannot be looked into without torch.
        """
        desk = self._desks[0]
        desk.worker.ask(Plan(sweep), _PLAN_TIMEOUT)
        while not desk.worker.overdue:
            for message in _listen(desk):
                if isinstance(message, Planned):
                    return list(message.cases)
                if isinstance(message, Refused):
                    raise _refusal(message)
        raise CsbenchError(f"the worker for {desk.device} did not answer within {_PLAN_TIMEOUT} s")

    def measure(self, cases: Sequence[Case]) -> Iterator[Record]:
        """Measure the cases, and give each record as soon as it exists, for it to be saved."""
        waiting = list(cases)
        while waiting or any(desk.case for desk in self._desks):
            for desk in self._desks:
                if desk.case is None and waiting:
                    others = [other.last for other in self._desks if other is not desk]
                    self._start(desk, waiting.pop(choose(waiting, desk.last, others)))
            yield from self._finished()

    def _start(self, desk: _Desk, case: Case) -> None:
        desk.case = desk.last = case
        desk.slow_ms = ()
        self._reporter.started(case)
        self._ask(desk, case)

    def _ask(self, desk: _Desk, case: Case) -> None:
        request = Measure(case, self._settings, desk.slow_ms)
        desk.worker.ask(request, self._settings.stop.timeout)

    def _finished(self) -> Iterator[Record]:
        """Records of the cases that ended while the workers were listened to once."""
        busy = [desk for desk in self._desks if desk.case is not None]
        ready, _, _ = select.select([desk.worker for desk in busy], [], [], _LOOK_EVERY)
        for desk in busy:
            case = desk.case
            assert case is not None
            record = self._heard(desk, case) if desk.worker in ready else None
            if record is None and desk.worker.overdue:
                reason = f"not done after {self._settings.stop.timeout:g} s (--timeout)"
                record = desk.failed(case, "timeout", reason)
            if record is not None:
                desk.case = None
                yield record

    def _heard(self, desk: _Desk, case: Case) -> Record | None:
        try:
            for message in desk.worker.replies():
                if isinstance(message, Ready):
                    desk.env = message.env
                elif isinstance(message, Progress):
                    self._reporter.progress(case, message)
                elif isinstance(message, Refused):
                    return desk.refused(case, message)
                elif isinstance(message, Slow):
                    self._reporter.retried(case, message.reason)
                    desk.slow_ms += (message.took_ms,)
                    desk.end()
                    self._ask(desk, case)
                    return None
                elif isinstance(message, Done):
                    if message.record.status in ("oom", "error") and desk.device != "cpu":
                        desk.end()  # a failed GPU context poisons what comes after it
                    return message.record
        except EOFError:
            worker = desk.worker
            worker.end(_GRACE)
            status: Status = "oom" if worker.out_of_memory else "error"
            return desk.failed(case, status, f"the worker died, {worker.last_words()}")
        return None


def choose(waiting: Sequence[Case], last: Case | None, others: Iterable[Case | None]) -> int:
    """Which of the waiting cases a worker takes: one with the dense network that it has made for
    its last one, else one with a network that no other worker has, else the first."""
    made, taken = last and last.dense, {other.dense for other in others if other}
    networks = [case.dense for case in waiting]
    if made in networks:
        return networks.index(made)
    return next((i for i, network in enumerate(networks) if network not in taken), 0)


def _share_of_cores(cores: int | None, workers: int) -> int | None:
    """CPU threads of each of several workers: threads that wait for each other on taken cores
    crawl. None leaves it to torch: one worker alone has them all, and OMP_NUM_THREADS is obeyed."""
    if workers == 1 or "OMP_NUM_THREADS" in os.environ:
        return None
    return max(1, (cores or 1) // workers)


class _Desk:
    """A device and its worker, which is started when needed and replaced when it was ended."""

    def __init__(self, device: str, threads: int | None, env: dict[str, Any]) -> None:
        self.device, self._threads = device, threads
        self.env = env  # until its worker tells its own
        self.case: Case | None = None
        self.last: Case | None = None
        self.slow_ms: tuple[float, ...] = ()  # what its baseline took in workers replaced for it
        self._worker: Worker | None = None

    @property
    def worker(self) -> Worker:
        if self._worker is None:
            self._worker = Worker(self.device, self._threads)
        return self._worker

    def end(self) -> None:
        if self._worker is not None:
            self._worker.end()
            self._worker = None

    def failed(self, case: Case, status: Status, reason: str) -> Record:
        """The record of a case that its worker did not survive."""
        self.end()
        return Record(
            created=now(), key=case.key, case=case, status=status, reason=reason, env=self.env
        )

    def refused(self, case: Case, message: Refused) -> Record:
        """The record of a case that its worker would not measure."""
        return Record(
            created=now(), key=case.key, case=case, status="error", reason=message.message,
            env=self.env,
        )  # fmt: skip


def _listen(desk: _Desk) -> Iterator[Planned | Refused]:
    ready, _, _ = select.select([desk.worker], [], [], _LOOK_EVERY)
    if not ready:
        return
    try:
        for message in desk.worker.replies():
            if isinstance(message, Ready):
                desk.env = message.env
            elif isinstance(message, Planned | Refused):
                yield message
    except EOFError:
        worker = desk.worker
        worker.end(_GRACE)
        raise CsbenchError(f"the worker for {desk.device} died, {worker.last_words()}") from None


def _refusal(message: Refused) -> CsbenchError:
    kinds: dict[int, type[CsbenchError]] = {2: UsageError, 3: BackendError}
    return kinds.get(message.exit_code, CsbenchError)(message.message)


def now() -> str:
    """The time in UTC as records carry it: 2026-11-22T12:00:00Z."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")

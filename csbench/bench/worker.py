"""A worker process: loads torch once, then plans and measures what its parent asks for.

Its arguments are DEVICE [THREADS]. Requests come on stdin and replies go to stdout; whatever
libraries print goes to stderr.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from typing import BinaryIO

from csbench.bench.messages import (
    Done,
    Measure,
    Plan,
    Planned,
    Progress,
    Ready,
    Refused,
    Reply,
    Request,
    Slow,
    encode,
    request,
)
from csbench.bench.slow_baseline import SlowBaseline
from csbench.errors import CsbenchError, UsageError

_PROGRESS_EVERY = 0.1  # seconds


class Channel:
    """Replies to the parent; progress is thinned out so that it costs the measurement nothing."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._last = 0.0

    def send(self, message: Reply) -> None:
        self._file.write(encode(message))
        self._file.flush()

    def progress(self, phase: str, share: float = 0.0, half_width: float | None = None) -> None:
        now = time.perf_counter()
        if share == 0.0 or now - self._last > _PROGRESS_EVERY:
            self._last = now
            self.send(Progress(phase, share, half_width))


def main() -> None:
    """Serve requests until the parent closes stdin, or is gone."""
    device, threads = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
    channel, requests = Channel(_own_stdout()), _requests()
    try:
        bench = _bench(_visible(device), int(threads) if threads else None)
    except CsbenchError as error:
        channel.send(Refused(str(error), error.exit_code))
        return
    channel.send(Ready(bench.device, bench.env))
    while True:
        _serve(bench, requests.get(), channel)


def _bench(device: str, threads: int | None):  # type: ignore[no-untyped-def]
    from csbench.bench.infer import Bench  # torch is loaded here, after the GPU was chosen

    return Bench(device, threads)


def _serve(bench, wanted: Request, channel: Channel) -> None:  # type: ignore[no-untyped-def]
    try:
        if isinstance(wanted, Plan):
            channel.send(Planned(tuple(bench.plan(wanted.sweep))))
        elif isinstance(wanted, Measure):
            record = bench.measure(wanted.case, wanted.settings, channel.progress, wanted.slow_ms)
            channel.send(Done(record))
    except SlowBaseline as slow:
        channel.send(Slow(slow.took_ms, str(slow)))
    except CsbenchError as error:
        channel.send(Refused(str(error), error.exit_code))


def _visible(device: str) -> str:
    """Let this process see one GPU only, so that "cuda" means that one; before torch is loaded."""
    kind, _, index = device.partition(":")
    if index:
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        all_gpus = seen.split(",") if seen else None
        if all_gpus is not None and int(index) >= len(all_gpus):
            raise UsageError(
                f"device 'cuda:{index}' does not exist: CUDA_VISIBLE_DEVICES={seen} shows "
                f"{len(all_gpus)} GPUs, counted from 0"
            )
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        os.environ["CUDA_VISIBLE_DEVICES"] = all_gpus[int(index)] if all_gpus else index
    return kind


def _own_stdout() -> BinaryIO:
    """Keep stdout for replies alone: prints of libraries and kernels go to stderr instead."""
    kept = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return kept


def _requests() -> queue.Queue[Request]:
    """Requests as they come. When stdin ends the parent is done or dead, and so is this process."""
    lines: queue.Queue[Request] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin.buffer:
            lines.put(request(line))
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    return lines

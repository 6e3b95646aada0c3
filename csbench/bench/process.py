"""A worker process as its parent sees it: started, asked, listened to, and killed when it hangs."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from csbench.bench.messages import Ready, Reply, Request, encode, reply

_LAST_BYTES = 64_000  # the stacks of many threads
# What Python's fault handler writes when a library crashes: which line called it. Only the stack of
# the thread that crashed counts, and no library in the environment of a checkout named csbench:
# there some folder has a dot or a hyphen in its name.
_FAULT = "Fatal Python error:"
_FAULTY_LINE = re.compile(
    r'^Current thread .*\n(?:  .*\n)*?  File "(?:[^"]*/)?(csbench/[\w/]+\.py)", line (\d+)',
    re.MULTILINE,
)
_CHUNK = 1 << 20
# The worker finds the very package that its parent runs, wherever that came from, and nothing in
# the current folder stands in its way.
_ROOT = str(Path(__file__).resolve().parents[2])
_MAIN = (
    f"import sys; sys.path = [p for p in sys.path if p] + [{_ROOT!r}]; "
    "from csbench.bench.worker import main; main()"
)
_START = 300.0  # seconds that loading torch may take from a cold disk; no case pays for them


class Worker:
    """One process for one device. It is in a session of its own, so that Ctrl-C at the terminal
    reaches the parent alone, which then ends it in order.
    """

    def __init__(self, device: str, threads: int | None = None) -> None:
        self.device = device
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the worker)
        command = [sys.executable, "-c", _MAIN, device]
        self._process = subprocess.Popen(
            command + ([str(threads)] if threads else []),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,  # nothing is left to be flushed into a pipe that nobody reads
            start_new_session=True,
            env=_environment(threads),
        )
        self._buffer = b""
        self._ready = False
        self._timeout = self._deadline = float("inf")

    def fileno(self) -> int:
        """The pipe with the replies, for select."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def ask(self, request: Request, timeout: float) -> None:
        """Send a request; the worker is overdue `timeout` seconds after it can begin with it.

        A dead worker is noticed when its replies end.
        """
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        assert self._process.stdin is not None
        with _broken_pipes_as_errors(), contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(encode(request))

    @property
    def overdue(self) -> bool:
        return time.monotonic() >= self._deadline + (0.0 if self._ready else _START)

    def replies(self) -> Iterator[Reply]:
        """Whole replies that have arrived; raises EOFError when the process has ended."""
        chunk = os.read(self.fileno(), _CHUNK)
        if not chunk:
            raise EOFError
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        for line in lines:
            try:
                message = reply(line)
            except msgspec.DecodeError:
                raise EOFError from None  # garbled: as good as crashed
            if isinstance(message, Ready):
                self._ready, self._deadline = True, time.monotonic() + self._timeout
            yield message

    def end(self, grace: float = 0.0) -> None:
        """Kill the process and everything that it started, after `grace` seconds to end itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def last_words(self) -> str:
        """How an ended process ended: its signal or exit code, the line of csbench that it was in
        when it crashed, and its last line on stderr."""
        code = self._process.wait()
        ended = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        with contextlib.suppress(ValueError):
            if code < 0:
                ended += f" ({signal.Signals(-code).name})"
        words, _, fault = self.log().partition(_FAULT)
        ended += crashed_in(fault)
        lines = words.strip().splitlines()
        return f"{ended}: {lines[-1].strip()}" if lines else ended

    @property
    def out_of_memory(self) -> bool:
        """Whether an ended process was killed by the system, as it does when memory runs out."""
        return self._process.wait() == -signal.SIGKILL

    def log(self) -> str:
        """The end of what the process wrote to stderr."""
        file = self._log.fileno()  # pread: the process shares this file's position
        start = max(0, os.fstat(file).st_size - _LAST_BYTES)
        return os.pread(file, _LAST_BYTES, start).decode(errors="replace")


def crashed_in(fault: str) -> str:
    """Which line of csbench the thread that crashed was in, by the fault handler; else nothing."""
    place = _FAULTY_LINE.search(fault)
    return f" in {place[1]}, line {place[2]}" if place else ""


@contextlib.contextmanager
def _broken_pipes_as_errors() -> Iterator[None]:
    """The command line lets SIGPIPE end it, for `csbench report | head`; a dead worker must not."""
    before = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGPIPE, before)


def _environment(threads: int | None) -> dict[str, str]:
    """The parent's environment; OpenMP of our own kernels counts threads as torch does."""
    here = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
    if threads:
        here |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return here

"""Candidates timed one by one in a process that may die of them.

Some of cuSPARSELt's algorithms end in an illegal instruction, after which a process can use its GPU
no more: version 0.8.0 on an H200 in fp16 from number 36 on, while 0 to 35 are right. So the parent
hears of each candidate before it runs, and asks for those behind the one that ended a process.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from subprocess import PIPE
from typing import Any, NamedTuple

from csbench.errors import BackendError

Run = Callable[[], object]

_TIMEOUT = 120  # seconds without a word: what hangs is as good as dead
_MOST = 64  # candidates that may crash before something else must be wrong
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl
_MAIN = "import sys; sys.path[:] = {path!r}; from {module} import {function}; {function}()"


class Lost(Exception):  # noqa: N818 (an end, not an error)
    """The process can run nothing more."""


class Tried(NamedTuple):
    """Milliseconds of the candidates that ran, and the names of those that ended a process.

    `why` is the last complaint: of one that was refused, or that ended its process.
    """

    times: dict[str, float]
    crashed: list[str]
    why: str


class Trials:
    """A process that calls serve(); it is started when asked and not there.

    `main` is the function to call there: "package.module:function".
    """

    def __init__(self, main: str) -> None:
        module, _, function = main.partition(":")
        code = _MAIN.format(path=sys.path, module=module, function=function)
        self._command = [sys.executable, "-c", code]
        self._process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (as long as this)

    def tried(self, request: object, skip: Iterable[str] = ()) -> Tried:
        """Every candidate of a request (JSON) but those to skip.

        Raises BackendError where the process ends and it is of no candidate.
        """
        try:
            return self._tried(request, set(skip))
        except BackendError:
            raise
        except BaseException:
            self.end()  # answers that nobody heard would be taken for those of the next request
            raise

    def _tried(self, request: object, done: set[str]) -> Tried:
        times: dict[str, float] = {}
        crashed: list[str] = []
        why = ""
        while len(crashed) < _MOST:
            before, trying = len(done), None
            for word, *rest in self._answers([request, sorted(done)]):
                if word == "end":
                    return Tried(times, crashed, why)
                if word == "why":
                    (why,) = rest
                    continue
                trying = rest[0] if word == "try" else None
                done.add(rest[0])
                if word == "ms":
                    times[rest[0]] = rest[1]
            if trying is not None:
                crashed.append(trying)
            elif len(done) == before:
                break
        raise BackendError(f"algorithms cannot be tried: {why or self._last_words()}")

    def _answers(self, question: object) -> Iterator[list[Any]]:
        """What it says until a request is done, or what worked on it has ended."""
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, stdin=PIPE, stdout=PIPE, stderr=self._log, bufsize=0,
                start_new_session=True,
            )  # fmt: skip
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        with contextlib.suppress(BrokenPipeError):  # then it says nothing either
            stdin.write(json.dumps(question).encode() + b"\n")
        while heard := select.select([stdout], [], [], _TIMEOUT)[0]:
            if not (line := stdout.readline()):
                break
            word, *rest = json.loads(line)
            if word == "dead":
                return
            yield [word, *rest]
            if word == "end":
                return
        if not heard:
            yield ["why", f"no answer within {_TIMEOUT} s"]
        self.end()  # it hangs, or has ended altogether

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no message"

    def end(self) -> None:
        """End the process, which otherwise waits for more as long as its parent lives."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()
            self._process = None


def serve(
    candidates: Callable[[Any], Mapping[str, Run]], milliseconds: Callable[[Run], float]
) -> None:
    """Time what `candidates` makes of each request on standard input, until that ends.

    A candidate that raises RuntimeError is refused. The work is done by a fork; when it dies the
    next one takes over, which need not load torch again. What forks must not compute: threads and
    the device's context do not come along.
    """
    out = os.dup(1)
    os.dup2(2, 1)  # nothing but answers goes to the parent
    _die_with_parent()

    def say(*words: object) -> None:
        os.write(out, json.dumps(words).encode() + b"\n")

    while pid := os.fork():
        _, status = os.waitpid(pid, 0)
        if status == 0:
            return
        if os.WIFSIGNALED(status):
            say("why", f"killed by {signal.Signals(os.WTERMSIG(status)).name}")
        say("dead")
    _die_with_parent()
    try:
        for line in os.fdopen(0, "rb", buffering=0):
            request, skip = json.loads(line)
            wanted = {n: run for n, run in candidates(request).items() if n not in skip}
            for name, run in wanted.items():
                say("try", name)
                try:
                    say("ms", name, milliseconds(run))
                except RuntimeError as error:
                    say("why", str(error).partition("\n")[0])
                    say("no", name)
            say("end")
    except Exception as error:
        say("why", (str(error).strip().splitlines() or [type(error).__name__])[0])
        os._exit(1)
    os._exit(0)


def _die_with_parent() -> None:
    """What hangs on the device reads no more requests, so their end would not end it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)

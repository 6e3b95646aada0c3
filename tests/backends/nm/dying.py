"""The other process of test_trial.py: a request is a list of what its candidates do."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

from csbench.kernels.cusparselt.trial import Lost, serve


def main() -> None:
    serve(_candidates, lambda run: float(str(run())))


def _candidates(request: Any) -> dict[str, Callable[[], object]]:
    if request == "nothing":
        raise ValueError("it knows nothing of this")
    return {f"{i} {act}": partial(_act, act) for i, act in enumerate(request)}


def _act(act: str) -> int:
    if act == "refuse":
        raise RuntimeError("no such plan")
    if act == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if act == "lose":
        raise Lost("illegal instruction")
    if act == "hang":
        signal.pause()
    print("what a library prints is no answer")
    return os.getpid()

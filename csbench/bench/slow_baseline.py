"""A baseline that came out slow by bad luck, told by the least time that it ever took.

cuDNN times its plans once a process and keeps what it chose. A poor choice makes the dense network
slower (9 % were seen), and every speed-up over it too good, until another process chooses anew.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from csbench.core.cache import measured_file, write_atomically
from csbench.core.case import Case

DEVICES = frozenset({"cuda"})  # on a CPU the neighbours decide more than libraries do
SLOWER = 1.03  # beyond what copies, samples and days differ by
MOST_TRIES = 3  # processes that may choose for one case


class SlowBaseline(Exception):  # noqa: N818 (no error: another process may choose better)
    """Ends the try of a case in this process; `took_ms` is what its baseline takes here."""

    def __init__(self, took_ms: float, reason: str) -> None:
        super().__init__(reason)
        self.took_ms = took_ms


def doubt(
    case: Case, env: Mapping[str, Any], took_ms: float, again: Callable[[], float],
    earlier_ms: Sequence[float],
) -> str | None:  # fmt: skip
    """Why the case's baseline is too slow to be compared with; None when it is not.

    `took_ms` is its time, `again` takes it once more, `earlier_ms` holds what it took in other
    processes that tried this case. Raises SlowBaseline while another one may try. After the last
    try the best of all is the time to reach: the machine may well have become slower.
    """
    path = _path(case, env)
    least_ms = _read(path)
    if took_ms > SLOWER * least_ms:
        took_ms = min(took_ms, again())  # one reading may be bad luck too
    if took_ms <= SLOWER * least_ms:
        if took_ms < least_ms:
            _write(path, took_ms)
        return None
    reason = f"baseline took {took_ms:.4g} ms; {least_ms:.4g} ms were reached before on this GPU"
    tried = [*earlier_ms, took_ms]
    if len(tried) < MOST_TRIES:
        raise SlowBaseline(took_ms, reason)
    _write(path, min(tried))
    return reason


def _path(case: Case, env: Mapping[str, Any]) -> Path:
    """One file for each dense workload on each GPU with the same libraries. GPUs of one model
    differ, by their power limit for one, and may share this folder."""
    names = ("gpu", "gpu_id", "driver", "torch", "cudnn")
    return measured_file("baseline", case.dense.key, *(env.get(name) for name in names))


def _read(path: Path) -> float:
    try:
        return float(json.loads(path.read_text())["least_ms"])
    except (OSError, ValueError, KeyError, TypeError):
        return float("inf")  # never timed here, or the file is damaged


def _write(path: Path, least_ms: float) -> None:
    with contextlib.suppress(OSError):  # a folder that cannot be written is no fault of the case
        write_atomically(path, json.dumps({"least_ms": least_ms}).encode())

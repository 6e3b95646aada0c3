"""The most memory that a run needs: the GPU's as torch counts it, or the process's on a CPU."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def peak_of(run: Callable[[], object], device: str, before: int) -> int | None:
    """Bytes at the peak of one run.

    On a GPU those above `before` (see in_use): weights as stored, workspace and activations of
    what was lowered since. On a CPU the whole process's resident memory; None where the system
    does not count it.
    """
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    try:
        _CLEAR.write_text("5")  # forget the peak so far
    except OSError:
        return None
    run()
    peak = re.search(r"^VmHWM:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    return int(peak[1]) * 1024 if peak else None


def in_use(device: str) -> int:
    """Bytes of GPU memory in use now; 0 on a CPU."""
    return torch.cuda.memory_allocated() if device.startswith("cuda") else 0

"""Cold caches: what runs before each timed run so that nothing of the last one is at hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNKNOWN_CACHE = 64 << 20  # bytes, where the system does not say
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def flusher(device: str) -> Callable[[], object]:
    """Write twice the last-level cache's size, by all threads on a CPU."""
    size = 2 * (l2_bytes() if device.startswith("cuda") else last_level_bytes())
    buffer = torch.zeros(size // 4, dtype=torch.int32, device=device)
    return lambda: buffer.add_(1)


def l2_bytes() -> int:
    """The GPU's second-level cache, its last."""
    size: int = torch.cuda.get_device_properties(0).L2_cache_size
    return size


def last_level_bytes(caches: Path = _CACHES) -> int:
    """The largest cache that the first core sees."""
    found = [_bytes(path.read_text()) for path in caches.glob("index*/size")]
    return max(found, default=_UNKNOWN_CACHE) or _UNKNOWN_CACHE


def _bytes(text: str) -> int:
    number = re.fullmatch(r"(\d+)([KMG]?)", text.strip())
    return int(number[1]) * _UNITS[number[2]] if number else 0

"""Fresh memory full of NaN, so that what reads memory that it did not write gives itself away."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Fill everything that torch.empty gives with NaN for the length of a block."""
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        memory.fill_uninitialized_memory = fill


def scribble(like: Tensor, blocks: int = 4) -> None:
    """Leave freed blocks of this tensor's size full of NaN, for the allocator to hand out next.

    It reaches allocations that `poisoned` does not, and does not change which algorithms run.
    """
    held = [torch.full_like(like, float("nan")) for _ in range(blocks)]
    del held

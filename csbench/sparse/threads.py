"""One thread for work of many small operations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread inside, as before outside; a context or a decorator.

    Masks and checks are many small operations, which gain nothing from threads, and on a busy
    machine threads that wait for one another take twenty times as long.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""Random numbers are the same in every run, so that what fails once fails again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from csbench.sparse import threads


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For the conformance kit: its layers are so small that threads cost more than they bring."""
    with threads.one_thread():
        yield

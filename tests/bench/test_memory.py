"""How much memory there is, and that a process which asks for more is told so."""

from __future__ import annotations

import resource

import pytest
import torch

from csbench.bench.memory import bounded, capacity, free_memory, free_share, out_of_memory


def test_more_than_is_free_is_refused_instead_of_killing_the_process() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    free = free_memory()
    assert 0 < free < capacity("cpu")
    with bounded("cpu"), pytest.raises(RuntimeError) as caught:
        torch.empty(2 * free, dtype=torch.uint8)
    assert out_of_memory(caught.value)
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_a_limit_of_the_process_itself_counts() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    with bounded("cpu"):
        own, _ = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (own // 2, before[1]))
        assert free_memory() < own // 2


def test_what_is_free_is_a_share_of_what_there_is() -> None:
    assert 0 < free_share("cpu") < 1

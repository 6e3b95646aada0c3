"""GPU tests in several processes share the cores, and keep what they compile and choose apart.

Choices are made by timing; those made while other tests use the same GPU are worth nothing to
anybody else, so they go to a cache that lasts as long as the tests.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _share_of_the_cores() -> None:
    """Each worker's float64 references use its part of the cores: more threads than cores crawl."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // workers))


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CSBENCH_CACHE_DIR", str(shared / "csbench-cache"))
        yield

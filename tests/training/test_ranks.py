"""Training on several ranks: what one learns, all know."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("scheme", "pattern"), [("nm", "nm:2:4"), ("nm-argsort", "nm:2:4"), ("cs", "cs:4")]
)
def test_ranks_keep_the_same_weights(scheme: str, pattern: str) -> None:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone",
        str(Path(__file__).parent / "parallel.py"), scheme, pattern,
    ]  # fmt: skip
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr

"""Which algorithms of cuSPARSELt can be tried: run once each, in a process that may die of it.

Some end in an illegal instruction, after which a process can use its GPU no more: version 0.8.0 on
an H200 in fp16 from number 36 on, while 0 to 35 are right.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from subprocess import PIPE

import torch

from csbench.errors import BackendError
from csbench.kernels import search
from csbench.kernels.cusparselt.library import version
from csbench.kernels.cusparselt.product import Algorithm, Epilogue, Plan, Problem, compress

_TIMEOUT = 120  # seconds


def sound(problem: Problem, device: int) -> int:
    """How many algorithms can be tried, counted from 0; remembered for all problems like it."""
    key = ("cusparselt algorithms", version(device), problem.dtype, problem.images > 1)
    found: int = search.remembered(key, lambda: _survived(problem, device))
    return found


def _survived(problem: Problem, device: int) -> int:
    given = json.dumps([*problem[:-1], str(problem.dtype).removeprefix("torch."), device])
    command = [sys.executable, "-m", "csbench.kernels.cusparselt.trial", given]
    with subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True) as child:
        try:
            out, errors = child.communicate(timeout=_TIMEOUT)
        except subprocess.TimeoutExpired:  # one that hangs is as good as dead
            child.kill()
            out, errors = child.communicate()
    count = len(out.split())
    if not count:
        why = (errors.strip().splitlines() or ["no message"])[-1]
        raise BackendError(f"no algorithm of cuSPARSELt could be tried: {why}")
    return count


def main() -> None:
    """Print the number of every algorithm after it was tried, until one ends the process."""
    *sizes, dtype, device = json.loads(sys.argv[1])
    problem = p = Problem._make([*sizes, getattr(torch, dtype)])
    torch.cuda.set_device(device)
    torch.set_default_device(f"cuda:{device}")
    torch.set_default_dtype(p.dtype)
    kept = torch.tensor([1.0, 0.0]).repeat(p.rows, p.inner // 2)
    weights, bias = compress(kept * torch.randn(p.rows, p.inner)), torch.randn(p.rows)
    x = torch.randn(max(p.pixels * p.inner, p.step) * p.images)
    out = torch.zeros(p.images * p.pixels, p.rows)
    plan = Plan(problem, device, Epilogue(bias, "relu"))
    for number in range(plan.algorithms):
        with contextlib.suppress(RuntimeError):  # one that this problem does not have
            plan.run(Algorithm(number), weights, x, out, out)
        torch.cuda.synchronize()
        print(number, flush=True)


if __name__ == "__main__":
    main()

"""`inductor` in a process that has compiled much before."""

from __future__ import annotations

import torch
from torch import Tensor

from csbench.backends.dense.inductor import _lift_limits


def test_the_same_code_is_compiled_however_often() -> None:
    compiled: list[torch.Size] = []

    def backend(graph: torch.fx.GraphModule, given: list[Tensor]) -> torch.fx.GraphModule:
        compiled.append(given[0].shape)
        return graph

    def double(x: Tensor) -> Tensor:
        return x + x

    with torch._dynamo.config.patch(recompile_limit=8, accumulated_recompile_limit=256):
        _lift_limits()
        run = torch.compile(double, backend=backend, dynamic=False)
        for size in range(2, 22):
            run(torch.ones(size))
    assert [shape[0] for shape in compiled] == list(range(2, 22))

"""`inductor` in a process that has compiled much before."""

from __future__ import annotations

import torch
from torch import Tensor

from csbench.backends.dense.inductor import _without_limit


def test_the_same_code_is_compiled_however_often() -> None:
    compiled: list[torch.Size] = []

    def backend(graph: torch.fx.GraphModule, given: list[Tensor]) -> torch.fx.GraphModule:
        compiled.append(given[0].shape)
        return graph

    def double(x: Tensor) -> Tensor:
        return x + x

    for size in range(2, 22):
        with _without_limit():
            torch.compile(double, backend=backend, dynamic=False)(torch.ones(size))
    assert [shape[0] for shape in compiled] == list(range(2, 22))

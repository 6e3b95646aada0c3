"""`inductor`: which compile runs, and that a process which has compiled much still compiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from csbench.backends.base import Inside, as_it_is
from csbench.backends.dense import inductor
from csbench.kernels import search
from tests.backends.cases import case, conv


def test_the_same_code_is_compiled_however_often() -> None:
    compiled: list[torch.Size] = []

    def backend(graph: torch.fx.GraphModule, given: list[Tensor]) -> torch.fx.GraphModule:
        compiled.append(given[0].shape)
        return graph

    def double(x: Tensor) -> Tensor:
        return x + x

    with torch._dynamo.config.patch(cache_size_limit=8, accumulated_cache_size_limit=256):
        inductor.lift_limits()
        run = torch.compile(double, backend=backend, dynamic=False)
        for size in range(2, 22):
            run(torch.ones(size))
    assert [shape[0] for shape in compiled] == list(range(2, 22))


@pytest.mark.parametrize("how", ["plain", "max-autotune"])
def test_the_fastest_layout_and_search_run_and_are_named(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    def in_layout(
        module: nn.Module, memory: torch.memory_format, given: list[Tensor], _: object,
        options: inductor.Options,
    ) -> tuple[Inside, list[Tensor]]:  # fmt: skip
        searched = options is inductor.OPTIONS
        return Inside(as_it_is, lambda x: (memory, searched), as_it_is), given

    def chosen(runs: Mapping[str, search.Run]) -> str:
        for run in runs.values():
            run()
        return "NHWC" if "NHWC" in runs else how

    monkeypatch.setattr(inductor, "_in_layout", in_layout)
    monkeypatch.setattr(inductor, "fastest", chosen)
    layer = conv()
    inside, name = inductor._compiled(nn.Identity(), [layer], [layer.input_size], case())
    assert name == f"torch.compile, NHWC, {how}"
    assert inside.run(torch.ones(1)) == (torch.channels_last, how == "max-autotune")


def test_a_way_that_failed_is_told_from_one_that_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def way() -> Any:
        raise AssertionError("not asked for")

    monkeypatch.setattr(search, "ranking", lambda runs, key: ["plain"])
    ways = {"plain": way, "max-autotune": way}
    assert inductor._fastest(ways, ("key",), case(device="cuda")) == ("plain", ["max-autotune"])
    assert inductor._fastest({"plain": way}, ("key",), case(device="cuda")) == ("plain", [])

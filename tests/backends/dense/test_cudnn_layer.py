"""A layer of the dense baseline takes of each algorithm the placement that was found fastest."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor

from csbench.backends.dense import cudnn_layer
from csbench.backends.dense.algorithms import Algorithm, DenseConv
from csbench.backends.dense.cudnn_layer import Layer
from csbench.kernels import search
from tests.backends.cases import case, conv

PLACEMENTS = {"plain": 2, "fused": 4, "gemm": 1}
LAST = {
    f"{name} {where}": count - 1
    for where in ("NHWC", "NCHW turned") for name, count in PLACEMENTS.items()
}  # fmt: skip


def _is(number: int, x: Tensor, residual: Tensor | None) -> Tensor:
    return torch.full_like(x, number)


def _numbered(dense: DenseConv) -> dict[str, list[Algorithm]]:
    """Every placement's result is its number."""
    return {name: [partial(_is, n) for n in range(count)] for name, count in PLACEMENTS.items()}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[Hashable, list[search.Run]]:
    """What is asked for the fastest placement, by key; the last one always is."""
    found: dict[Hashable, list[search.Run]] = {}

    def last(runs: Sequence[search.Run], key: Hashable) -> int:
        assert key not in found
        found[key] = list(runs)
        return len(runs) - 1

    monkeypatch.setattr(cudnn_layer, "fastest", last)
    monkeypatch.setattr(search, "ranking", lambda runs, *_: list(runs))
    monkeypatch.setattr(DenseConv, "algorithms", _numbered)
    return found


def number(y: object) -> int:
    assert isinstance(y, Tensor)
    (found,) = y.unique().tolist()
    return int(found)


def test_every_algorithm_runs_by_its_fastest_placement(
    asked: dict[Hashable, list[search.Run]],
) -> None:
    made = Layer(conv(), case(batch=2), "NHWC")
    x = torch.randn(2, *made.conv.input_size)
    for name, last in LAST.items():
        placements = [number(run()) for run in asked[made.key, name]]
        assert placements == list(range(last + 1))
        assert number(made.algorithms[name](x, None)) == last
    assert made.ranked == list(made.algorithms) == list(LAST)
    assert number(made.run(x)) == LAST[made.chosen]


def test_a_known_algorithm_alone_is_asked_and_run(
    asked: dict[Hashable, list[search.Run]],
) -> None:
    known = "fused NCHW turned"
    made = Layer(conv(), case(batch=2), "NHWC", known).settled()
    assert list(asked) == [(made.key, known)]
    assert number(made.run(torch.randn(2, *made.conv.input_size))) == LAST[known]

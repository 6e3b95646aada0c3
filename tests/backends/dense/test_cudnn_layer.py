"""The dense baseline runs what is fastest of each algorithm's placements, alone or in a network."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor

from csbench.backends.dense import cudnn_layer
from csbench.backends.dense.algorithms import Algorithm, DenseConv
from csbench.backends.dense.cudnn_layer import Layer, Network
from csbench.graph.program import Program, Step
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
    """Which placements are told apart, by key; the last one always comes out first."""
    found: dict[Hashable, list[search.Run]] = {}

    def backwards(runs: Sequence[search.Run], key: Hashable) -> list[int]:
        found[key] = list(runs)
        return list(range(len(runs)))[::-1]

    monkeypatch.setattr(cudnn_layer, "ranking", backwards)
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
        assert [number(a(x, None)) for a in made.algorithms[name]] == placements[::-1]
    assert made.ranked == list(made.algorithms) == list(LAST)
    assert number(made.run(x)) == LAST[made.chosen]


def test_a_known_algorithm_alone_is_asked_and_run(
    asked: dict[Hashable, list[search.Run]],
) -> None:
    known = "fused NCHW turned"
    made = Layer(conv(), case(batch=2), "NHWC", known).settled()
    assert list(asked) == [(made.key, known)]
    assert number(made.run(torch.randn(2, *made.conv.input_size))) == LAST[known]


COST = {
    ("3x3", 0): 1.0, ("3x3", 1): 1.2, ("3x3", 2): 0.9, ("3x3", 3): 1.1,
    ("1x1", 0): 1.0, ("1x1", 1): 1.1, ("1x1", 2): 1.1, ("1x1", 3): 1.1,
}  # fmt: skip


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What ran: of each layer its window, and the placement; a network takes the sum of COST."""
    seen: list[tuple[str, int]] = []

    def note(name: str, n: int, x: Tensor, residual: Tensor | None) -> Tensor:
        seen.append((name, n))
        return x

    def algorithms(dense: DenseConv) -> dict[str, list[Algorithm]]:
        name = "x".join(map(str, dense.conv.weight.shape[2:]))
        return {"fused": [partial(note, name, n) for n in range(4)]}

    def network_ms(run: search.Run) -> float:
        seen.clear()
        run()
        return sum(COST[item] for item in seen)

    monkeypatch.setattr(cudnn_layer, "_settled", {})
    monkeypatch.setattr(cudnn_layer, "ranking", lambda runs, key: list(range(len(runs))))
    monkeypatch.setattr(search, "_network_ms", network_ms)
    monkeypatch.setattr(DenseConv, "algorithms", algorithms)
    return seen


def network(*kernels: int) -> Network:
    steps = tuple(Step(conv(kernel=k), (n,), n + 1, f"conv{n}") for n, k in enumerate(kernels))
    program = Program("test", (8, 7, 5), steps, len(kernels))
    return Network(program, case(), "NHWC", ["fused NHWC"] * len(kernels))


def plans(of: Network, ran: list[tuple[str, int]]) -> list[tuple[str, int]]:
    ran.clear()
    of.run(torch.randn(1, 8, 7, 5))
    return list(ran)


def test_a_network_overrules_the_plan_that_is_fastest_alone(ran: list[tuple[str, int]]) -> None:
    made = network(3, 1, 3)
    assert plans(made, ran) == [("3x3", 0), ("1x1", 0), ("3x3", 0)]
    made.choose_plans(torch.randn(1, 8, 7, 5))
    assert plans(made, ran) == [("3x3", 2), ("1x1", 0), ("3x3", 2)]
    made.settle()
    assert plans(made, ran) == [("3x3", 2), ("1x1", 0), ("3x3", 2)]
    assert [len(layer.algorithms["fused NHWC"]) for layer in made.layers] == [1, 1, 1]


def test_plans_are_chosen_once_in_a_process(
    ran: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    network(3, 1).choose_plans(torch.randn(1, 8, 7, 5))

    def again(*_: object) -> float:
        raise AssertionError("it was measured again")

    monkeypatch.setattr(search, "_network_ms", again)
    made = network(3, 1)
    made.choose_plans(torch.randn(1, 8, 7, 5))
    assert plans(made, ran) == [("3x3", 2), ("1x1", 0)]


def test_a_network_of_long_calls_is_not_measured(
    ran: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cudnn_layer, "ranking", lambda runs, key: [3])
    made = network(3, 3)
    ran.clear()
    made.choose_plans(torch.randn(1, 8, 7, 5))
    assert ran == []
    assert plans(made, ran) == [("3x3", 3), ("3x3", 3)]


def test_what_no_graph_holds_keeps_the_plans_that_are_fastest_alone(
    ran: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []

    def refused(run: search.Run) -> float:
        tries.append(1)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(search, "_network_ms", refused)
    for _ in range(2):
        made = network(3, 1)
        made.choose_plans(torch.randn(1, 8, 7, 5))
        assert plans(made, ran) == [("3x3", 0), ("1x1", 0)]
    assert len(tries) == 1

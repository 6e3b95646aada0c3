"""A program becomes a callable: values are let go, and no layer goes without a report."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor, nn

from csbench.backends.base import LoweredNetwork
from csbench.backends.fake import Fake
from csbench.bench.network import lower_network, runs_sparse
from csbench.core.case import Case
from csbench.core.record import LayerReport
from csbench.errors import BackendError
from csbench.graph import Conv, Program, trace
from csbench.graph.reference import relative_error, run

CASE = Case(model="m", pattern="dense", sparsity=0, backend="b", baseline="b", device="cpu")


def program() -> Program:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)]
    return trace(nn.Sequential(*layers), (3, 12, 12), "m")


def test_the_network_computes_the_program() -> None:
    made, x = program(), torch.randn(2, 3, 12, 12)
    network = lower_network(made, Fake(), Fake(), CASE)
    assert relative_error(network(x), run(made, x)) < 1e-6
    assert [layer.name for layer in network.layers] == ["0", "2", "4"]


def test_a_value_is_let_go_after_its_last_use() -> None:
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    class Counting(Fake):
        def lower(self, conv: Conv, case: Case):  # type: ignore[no-untyped-def]
            inner = super().lower(conv, case)

            def counted(x: Tensor, residual: Tensor | None = None) -> Tensor:
                nonlocal most
                out = inner(x, residual)
                alive.append(weakref.ref(out))
                most = max(most, sum(ref() is not None for ref in alive))
                return out

            return counted

    lower_network(program(), Counting(), Fake(), CASE)(torch.randn(1, 3, 12, 12))
    assert most == 2  # a layer's input and its output


def test_a_whole_network_path_must_account_for_every_layer() -> None:
    class Silent(Fake):
        def lower_network(self, program: Program, case: Case) -> LoweredNetwork:
            return LoweredNetwork(lambda x: x, (LayerReport(name="0", ran="sparse"),))

    with pytest.raises(BackendError, match="does not say what ran in 2 layers: 2, 4"):
        lower_network(program(), Silent(), Fake(), CASE)


def test_a_layer_that_nobody_can_run_is_named() -> None:
    class Refuses(Fake):
        patterns = frozenset({"dense"})

        def why_not(self, conv: Conv, case: Case) -> str | None:
            return "the moon is full" if conv.name == "2" else None

    with pytest.raises(BackendError, match="cannot run layer 2 8x8x3x3 on 10x10: the moon is full"):
        lower_network(program(), Refuses(), Refuses(), CASE)


def test_dense_is_no_sparse_pattern() -> None:
    assert runs_sparse(Fake(), "cs")
    assert not runs_sparse(Fake(), "dense")

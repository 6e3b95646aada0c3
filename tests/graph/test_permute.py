"""A permuted program computes the same, and its cs groups are neighbours."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from csbench import models
from csbench.core.pattern import PatternSpec, parse
from csbench.graph import Conv, Program, attach, reference, trace
from csbench.graph.permute import joined, joining, permute
from csbench.graph.trace import exact
from csbench.sparse.network import sparsify_state
from csbench.sparse.patterns import for_spec
from tests.graph import nets

SIZE = (3, 32, 32)
MORE_OF_THE_SAME = ("resnet101", "resnet152", "vgg19_bn")


def shuffled(channels: int) -> Tensor:
    """An order without any structure; it does not fit a flattened image by chance."""
    return torch.randperm(channels, generator=torch.Generator().manual_seed(channels))


def sparse_program(model: str, spec: PatternSpec) -> Program:
    net = models.build(model, seed=3, num_classes=10)
    models.calibrate(net, SIZE)
    state, plan = sparsify_state(net.state_dict(), spec)
    net.load_state_dict(state)
    carried = {name: found for name, found in plan.items() if isinstance(found, PatternSpec)}
    return attach(trace(net, SIZE, model), carried)


def error(program: Program, *permuted: Program) -> float:
    """The largest, over all that were permuted."""
    x = torch.randn(2, *program.input_size, generator=torch.Generator().manual_seed(1))
    expected = reference.run(program, x)
    return max(reference.relative_error(reference.run(p, x), expected) for p in permuted)


def names(program: Program) -> list[str]:
    return [step.name for step in program.steps]


@pytest.mark.parametrize("channels", [16, 48, 64, 192, 36, 30, 17, 1])
def test_joined_is_a_permutation_that_joins_groups(channels: int) -> None:
    places = joined(channels)
    assert sorted(places.tolist()) == list(range(channels))
    for m in (2, 4, 8, 16):
        if channels % m == 0:
            groups = places.reshape(-1, m) % (channels // m)
            assert (groups == groups[:, :1]).all()


def test_a_span_repeats_the_order_of_its_own_channels() -> None:
    assert joined(64, 32).tolist() == [*joined(32).tolist(), *(joined(32) + 32).tolist()]
    assert joined(40, 16).tolist() == list(range(40))  # it does not divide the channels


def test_the_order_is_that_of_most_patterns() -> None:
    cs, nm, spans = parse("cs:4"), parse("nm:2:4"), parse("cs:4:16")
    assert torch.equal(joining([cs, None, cs, nm])(64), joined(64))
    assert torch.equal(joining([nm, None, cs, nm])(64), torch.arange(64))
    assert torch.equal(joining([spans, spans, cs])(64), joined(64, 16))
    assert torch.equal(joining([None])(64), torch.arange(64))


@pytest.mark.parametrize("net", nets.ALL, ids=lambda net: net.__name__)
def test_awkward_networks_compute_the_same(net: type[nn.Module]) -> None:
    program = exact(nets.randomised(net()), (3, 9, 8), "net")
    assert error(program, permute(program, shuffled)) < 1e-12


@pytest.mark.parametrize("model", sorted({*models.names()} - {*MORE_OF_THE_SAME}))
def test_our_models_compute_the_same(model: str) -> None:
    program = sparse_program(model, PatternSpec("cs", (2,)))
    permuted = permute(program, joined)
    assert error(program, permuted, permute(program, shuffled)) < 1e-6
    # Only vgg16_bn needs a step more: its linear layer reads the flattened image in the old order.
    added = set(names(permuted)) - set(names(program))
    assert len(added) == (1 if model == "vgg16_bn" else 0)
    assert [name for name in names(permuted) if name not in added] == names(program)


@pytest.mark.parametrize("m", [2, 4, 8, 16])
def test_cs_becomes_neighbours_at_no_cost(m: int) -> None:
    program = sparse_program("resnet18", PatternSpec("cs", (m,)))
    permuted = permute(program, joining(c.pattern for c in program.convolutions))
    assert names(permuted) == names(program)
    carrying = [c for c in permuted.convolutions if c.pattern is not None]
    assert len(carrying) == 19
    assert all(for_spec(PatternSpec("nm", (1, m))).verify(c.weight).ok for c in carrying)


def test_grouped_layers_and_shortcuts_read_what_they_need() -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.c = nets.conv(3, 16), nets.conv(16, 16)
            self.b = nets.conv(16, 16, groups=4)

        def forward(self, x: Tensor) -> Tensor:
            a = self.a(x).relu()
            return self.c(self.b(a).relu()).add(a).relu().mean((2, 3))

    program = exact(nets.randomised(Grouped()), (3, 9, 8), "net")
    permuted = permute(program, shuffled)
    assert error(program, permuted) < 1e-12
    (grouped,) = (c for c in permuted.convolutions if c.groups == 4)
    (before,) = (c for c in program.convolutions if c.groups == 4)
    assert torch.equal(grouped.weight[:, 0].sort().values, before.weight[:, 0].sort().values)


def test_the_program_itself_is_left_alone() -> None:
    program = sparse_program("resnet20", PatternSpec("cs", (4,)))
    before = [dataclasses.replace(c, weight=c.weight.clone()) for c in program.convolutions]
    permute(program, joined)
    for conv, copy in zip(program.convolutions, before, strict=True):
        assert isinstance(conv, Conv)
        assert torch.equal(conv.weight, copy.weight)

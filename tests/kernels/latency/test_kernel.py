"""latency/conv.cu's own source against float64, on a CPU (tests/kernels/host)."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch

from csbench.backends.cs import latency_layer as layers
from csbench.backends.cs.latency_pair import Pair
from csbench.backends.cs.latency_plan import Prepared, prepare
from csbench.backends.vector.units import vectors_of
from csbench.core.pattern import parse
from csbench.graph import reference
from csbench.graph.program import Conv
from csbench.kernels.latency import launch
from csbench.kernels.latency.io import Planes
from csbench.kernels.latency.pack import Order
from csbench.kernels.latency.plan import TILES, make_plan
from csbench.kernels.latency.vectors import Vectors
from csbench.sparse.patterns import for_spec
from tests.backends.native import pruned
from tests.backends.vector import shapes
from tests.kernels.host import host
from tests.kernels.latency import meaning

pytestmark = host.needs_gxx

LIMIT = {True: 1e-6, False: 1e-3}  # by split
# images, cin, size, cout, kernel, stride, dilation
SHAPES = {
    "3x3": (1, 64, 7, 64, 3, 1, 1),
    "two images, stride 2, five units": (2, 80, 5, 160, 3, 2, 1),
    "dilated": (1, 48, 7, 32, 3, 1, 2),
    "long K": (1, 320, 4, 96, 1, 1, 1),
}
WIDER = (1, 64, 7, 160, 1, 1, 1)
PATTERNS = (
    "", "cs:2", "cs:4", "cs:16", "nm:2:4", "ovw:32@50%", "shfl-bw:32@93.75%", "block:32x16@75%",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory starts as NaN, so that what is not written shows."""
    host.install(monkeypatch)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)


def layer(shape: str, pattern: str, *, residual: bool) -> Conv:
    _, cin, size, cout, kernel, stride, dilation = WIDER if shape == "wider" else SHAPES[shape]
    conv = shapes.layer(
        cin, cout, (size, size), kernel, stride, dilation, residual=residual
    )  # fmt: skip
    return pruned(conv, parse(pattern)) if pattern else conv


def prepared(conv: Conv, images: int, split: bool, out_order: Order | None) -> Prepared:
    rows = conv.weight.shape[0] if out_order is None else out_order.stored
    made = layers.kernelize(conv, images, rows)
    return prepare(made, split, made.order, out_order, (8.0, 4.0), "cpu")


def plans(ways: Prepared, count: int) -> list[str]:
    """Some of the plans: one with K in one block, one with a cluster, and others."""
    names = sorted(ways.ways)
    random.Random(len(names)).shuffle(names)
    clustered = [n for n in names if ways.ways[n].cluster > 1]
    whole = [n for n in names if ways.ways[n].cluster == 1]
    return (clustered[:count] + whole[:1])[:count] if clustered else whole[:count]


@pytest.mark.parametrize(
    "shape, pattern, split",
    [
        *((shape, pattern, True) for shape in SHAPES for pattern in PATTERNS),
        *(("3x3", pattern, False) for pattern in PATTERNS),
    ],
)
def test_plans_equal_the_reference(shape: str, pattern: str, split: bool) -> None:
    images, cin, size, cout, kernel, *_ = SHAPES[shape]
    if pattern and for_spec(parse(pattern)).why_not((cout, cin, kernel, kernel)):
        pytest.skip("the pattern does not divide the channels")
    conv = layer(shape, pattern, residual=True)
    out_order = Order(cout, 2)
    ways = prepared(conv, images, split, out_order)
    x, residual = torch.randn(images, cin, size, size), torch.randn(images, *conv.output_size)
    expected = reference.convolution(conv, x, residual)
    px = meaning.pack(x, split, ways.order, 8.0)
    added = meaning.pack(residual, split, out_order, 2.0)
    for name in plans(ways, 2):
        out = ways.output()
        assert isinstance(out, Planes)
        ways.convolution(name).launch(px, out, added)
        assert bool((out.data[..., out_order.channel < 0] == 0).all()), name
        assert reference.relative_error(meaning.unpack(out), expected) < LIMIT[split], name


@pytest.mark.parametrize("pattern", ["", "cs:4", "ovw:32@75%"])
def test_stages_are_filled_again(pattern: str) -> None:
    conv = layer("long K", pattern, residual=False)
    out_order = Order(96, 1)
    ways = prepared(conv, 1, False, out_order)
    most = ways.packed.most if isinstance(ways.packed, Vectors) else None
    shape, m = ways.layer.shape, ways.layer.m
    plan = make_plan(shape, ways.order, m, False, TILES[0], 1, 1, most)
    assert plan is not None
    plan = dataclasses.replace(plan, stages=2)
    assert plan.chunks == 5
    x, out = torch.randn(1, *conv.input_size), ways.output()
    assert isinstance(out, Planes)
    kernel = launch.Convolution(shape, ways.packed, m, plan, False, "relu")
    kernel.launch(meaning.pack(x, False, ways.order, 8.0), out)
    error = reference.relative_error(meaning.unpack(out), reference.convolution(conv, x))
    assert error < LIMIT[False]


@pytest.mark.parametrize("pattern", ["", "cs:4", "ovw:32@75%"])
def test_a_float_result_has_its_channels_as_they_come(pattern: str) -> None:
    conv = layer("long K", pattern, residual=False)
    ways = prepared(conv, 1, True, None)
    x = torch.randn(1, *conv.input_size)
    for name in plans(ways, 2):
        out = ways.output()
        ways.convolution(name).launch(meaning.pack(x, True, ways.order, 8.0), out)
        assert isinstance(out, torch.Tensor)
        error = reference.relative_error(out.permute(0, 3, 1, 2), reference.convolution(conv, x))
        assert error < LIMIT[True], name


@pytest.mark.parametrize("pattern", ["cs:4", "ovw:32@75%"])
def test_two_layers_in_one_launch(pattern: str) -> None:
    both = layer("3x3", pattern, residual=False), layer("wider", pattern, residual=False)
    pair = Pair(tuple(prepared(c, 1, False, Order(c.weight.shape[0], 1)) for c in both))  # type: ignore[arg-type]
    name = max(pair.ways, key=lambda n: pair.layers[0].ways[pair.ways[n][0]].tile.rows)
    x = torch.randn(1, 64, 7, 7)
    outs = pair.launch(name, meaning.pack(x, False, pair.layers[0].order, 8.0))
    for conv, out in zip(both, outs, strict=True):
        expected = reference.convolution(conv, x)
        assert reference.relative_error(meaning.unpack(out), expected) < LIMIT[False]


@pytest.mark.parametrize("pattern", ["cs:2", "ovw:32@75%"])
def test_a_value_is_read_when_the_kernel_before_has_ended(pattern: str) -> None:
    conv = layer("long K", pattern, residual=True)
    out_order = Order(96, 1)
    ways = prepared(conv, 1, False, out_order)
    x, residual = torch.randn(1, *conv.input_size), torch.randn(1, *conv.output_size)
    given = meaning.pack(x, False, ways.order, 8.0)
    added = meaning.pack(residual, False, out_order, 2.0)
    name = plans(ways, 1)[0]
    out = ways.output()
    assert isinstance(out, Planes)
    with host.ends_late([given.data, added.data]):
        ways.convolution(name).launch(given, out, added)
    expected = reference.convolution(conv, x, residual)
    assert reference.relative_error(meaning.unpack(out), expected) < LIMIT[False], name


def test_layers_that_keep_less_choose_for_themselves() -> None:
    torch.manual_seed(1)  # or other plans may fit, by the most records of a unit
    specs = ("ovw:32@50%", "ovw:32@75%", "ovw:32@75%", "block:32x32@75%")
    made = [prepared(layer("3x3", s, residual=False), 1, False, Order(64, 1)) for s in specs]
    assert len({ways.signature for ways in made}) == 3


def test_layers_whose_rows_lie_together_choose_for_themselves() -> None:
    conv = layer("3x3", "ovw:32@75%", residual=False)
    assert conv.pattern is not None
    rows = vectors_of(conv.weight, conv.pattern).row_permutation.long()
    beside = dataclasses.replace(conv, weight=conv.weight[rows], bias=conv.bias[rows])
    apart, together = (prepared(c, 1, False, Order(64, 1)).signature for c in (conv, beside))
    assert "rows together" in str(together)
    assert "rows together" not in str(apart)

"""Records of vectors hold every weight once, where the kernel's lanes look for its input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from csbench.kernels.gather.pack import Units
from csbench.kernels.latency import plan as plans
from csbench.kernels.latency.deal import deal
from csbench.kernels.latency.pack import VECTORS, Order
from csbench.kernels.latency.plan import Shape
from csbench.kernels.latency.vectors import pack_vectors
from tests.backends.vector.shapes import units_of
from tests.kernels.latency.meaning import decoded_vectors

SPECS = ["dense", "ovw:32@50%", "shfl-bw:32@75%", "ovw:64@93.75%", "block:32x32@50%"]


def layer(spec: str, cout: int = 128, cin: int = 160, kernel: int = 3) -> tuple[Tensor, Units]:
    """A weight under a pattern, and its units."""
    return units_of(torch.randn(cout, cin, kernel, kernel), spec)


def shape(cin_size: int, cout: int, kernel: int, stride: int, dilation: int = 1) -> Shape:
    out = (cin_size - 1) // stride + 1
    return Shape(
        1, cin_size, cin_size, cout, out, out, (kernel, kernel), stride,
        (dilation * (kernel // 2),) * 2, (dilation,) * 2,
    ).flat()  # fmt: skip


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("kernel, stride, dilation", [(3, 1, 1), (3, 2, 1), (3, 1, 2), (1, 1, 1)])
@pytest.mark.parametrize("spec", SPECS)
def test_records_hold_every_weight_once(
    spec: str, kernel: int, stride: int, dilation: int, split: bool
) -> None:
    weight, units = layer(spec, kernel=kernel)
    cout, cin = weight.shape[:2]
    order, out_order = Order(cin, 2), Order(cout, 4)
    packed = pack_vectors(
        units, torch.arange(cout), split, "cpu", x_scale=8.0, order=order, out_order=out_order
    )
    s = shape(14, cout, kernel, stride, dilation)
    ways = plans.candidates(s, order, VECTORS, split, packed.most)
    assert ways and all(p.chunk_log >= 1 and p.tile.mt == 2 for p in ways)  # 64 channels, 32 rows
    expected = weight.flatten(2).double()[out_order.channel][:, order.channel]
    for plan in ways[::7]:
        held = packed.held(plan, s)
        assert held.starts.shape[0] % 4 == 0
        assert bool((held.starts[units.count :] == len(held.weights)).all())
        got = torch.empty_like(expected)
        got[packed.places[: units.count * 32].long()] = decoded_vectors(packed, held, plan, s) * 8.0
        limit = 1e-6 if split else 1e-3
        assert torch.allclose(got, expected, rtol=limit, atol=limit * 1e-2), str(plan)
        assert plan.stages * held.room * plan.tile.wm <= plan.shared
    biases = packed.bias[: units.count * 32]
    assert torch.equal(biases, out_order.channel[packed.places[: len(biases)].long()].float())


def test_padding_reads_what_is_kept_and_writes_zeros() -> None:
    weight, units = layer("ovw:32@75%", cout=80, kernel=1)
    packed = pack_vectors(units, torch.ones(80), False, "cpu", out_order=Order(80, 1))
    places = packed.places[:96].tolist()
    assert sorted(places) == list(range(96))  # 16 of them are the output's padding
    assert packed.places[96:].eq(-1).all()
    padding = packed.places[:96] >= 80
    assert packed.bias[:96][padding].eq(0).all()
    s = shape(7, 96, 1, 1)
    plan = plans.candidates(s, packed.order, VECTORS, False, packed.most)[0]
    held = packed.held(plan, s)
    kept = {int(c) for c in packed.units.columns}
    plane = -(-plan.box[0] * plan.box[1] * 128 // 1024) * 1024
    offsets = held.weights[:, -64:].contiguous().view(torch.int32).long().flatten()
    chunk = 32 << plan.chunk_log
    first = held.starts[: units.count].long()
    for unit in range(units.count):
        for c in range(first.shape[1] - 1):
            read = offsets[16 * first[unit, c] : 16 * first[unit, c + 1]]
            channels = read // plane * 64 + read % plane % 128 // 2 + c * chunk
            assert {int(n) for n in channels} <= kept
    assert int((weight != 0).sum()) == int((held.weights[:, :1024].view(torch.half) != 0).sum())


def test_columns_are_dealt_by_bank() -> None:
    # Two cells: a full record with every bank four times; 17 columns of one bank.
    cell = torch.tensor([0] * 16 + [2] * 17)
    bank = torch.cat([torch.arange(16) % 4, torch.ones(17, dtype=torch.int64)])
    first = torch.tensor([0, 1, 1, 3])
    record, position = deal(cell, bank, first)
    assert torch.equal(position[:16] // 2 % 4, bank[:16])
    slots = record * 16 + position
    assert len(set(slots.tolist())) == 33
    assert bool((record[16:] >= 1).all()) and int(record.max()) == 2
    assert bool((record[16:] == 2).any())


def test_plans_that_cut_alike_share_their_records_and_others_go() -> None:
    _, units = layer("ovw:32@75%", cin=640, kernel=1)
    packed = pack_vectors(units, torch.zeros(128), False, "cpu")
    s = shape(7, 128, 1, 1)
    ways = plans.candidates(s, packed.order, VECTORS, False, packed.most)
    first = ways[0]
    alike = [p for p in ways[1:] if (p.chunk_log, p.box) == (first.chunk_log, first.box)]
    other = next(p for p in ways if p.chunk_log != first.chunk_log)
    held = packed.held(first, s)
    assert packed.held(alike[0], s) is held
    packed.held(other, s)
    packed.keep([first])
    assert list(packed._held) == [(first.chunk_log, first.box)] and not packed._dealt
    assert packed.held(first, s) is held

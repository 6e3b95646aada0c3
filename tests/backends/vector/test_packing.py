"""Packed weights of the gather kernels hold every weight once, where ldmatrix finds its row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from csbench.backends.vector.units import from_dense, from_vectors
from csbench.core.pattern import parse
from csbench.kernels.gather.pack import STAGE_ENDS, Packed, pack, scaled
from csbench.sparse.patterns import for_spec
from tests.backends.vector.shapes import units_of


def records(packed: Packed, size: int, planes: int) -> tuple[Tensor, Tensor]:
    """Rows [records, 16] in the stage and weights [records, 16, rows of a unit]."""
    count = len(packed.records)
    address = packed.records[:, -32:].contiguous().view(torch.int16).long() & 0xFFFF
    marked = (address & STAGE_ENDS != 0).all(1).nonzero()[:, 0]
    assert torch.equal(marked, packed.starts[:, 1:].flatten().long() - 1)
    address &= STAGE_ENDS - 1
    rows = address // 128
    assert torch.equal(address % 128, rows % 8 * 16)  # the swizzle of 128-byte rows
    total = torch.zeros(count, 16, size, dtype=torch.float64)
    for plane in packed.records[:, :-32].reshape(count, planes, -1).unbind(1):
        words = plane.contiguous().view(torch.float16).double()
        lanes = words.reshape(count, -1, 8, 4, min(2, size // 8), 2, 2)  # pair, g, t, n8, +8, k
        total += lanes.permute(0, 5, 3, 6, 1, 4, 2).reshape(count, 16, size)
    return rows, total


@pytest.mark.parametrize("boxes", [1, 2, 4])
@pytest.mark.parametrize(
    "spec", ["dense", "ovw:32@50%", "ovw:64@75%", "shfl-bw:16@87.5%", "ovw:8@93.75%", "ovw:12@75%"]
)
def test_records_hold_every_weight_once(spec: str, boxes: int) -> None:
    weight, units = units_of(torch.randn(96, 100, 3, 1), spec)
    packed = pack(units, boxes, swizzled=True, parts=(units.values.half(),))
    rows, values = records(packed, units.size, 1)
    found = torch.zeros(96 + 1, 3, 128, dtype=torch.float64)
    for unit, channels in enumerate(units.rows.long()):
        for stage in range(packed.stages):
            for r in range(int(packed.starts[unit, stage]), int(packed.starts[unit, stage + 1])):
                box = packed.boxes[stage * boxes + rows[r] // 64]
                at = channels[:, None], box[:, 0].long(), box[:, 1] + rows[r] % 64
                found.index_put_(at, values[r].T, accumulate=True)  # padding adds zeros
    assert torch.equal(found[:96, :, :100].permute(0, 2, 1), weight[..., 0].half().double())


def test_rows_of_a_matrix_lie_in_different_banks_where_they_can() -> None:
    units = from_dense(torch.randn(32, 64, 1, 1))
    packed = pack(units, 1, swizzled=True, parts=(units.values.half(),))
    rows, _ = records(packed, 32, 1)
    assert (rows.reshape(-1, 8).sort(1).values % 8).sort(1).values.eq(torch.arange(8)).all()


def test_padding_reads_rows_that_are_there_and_idle_banks() -> None:
    weight = torch.zeros(8, 64, 1, 1)
    weight[:, [8, 17, 26]] = 1.0
    units = from_vectors(for_spec(parse("ovw:8")).pack(weight))
    packed = pack(units, 1, swizzled=True, parts=(units.values.half(),))
    rows, values = records(packed, 8, 1)
    assert rows.shape == (1, 16)
    assert sorted(rows[0][values[0, :, 0] != 0].tolist()) == [8, 17, 26]
    for octet in rows.reshape(-1, 8):
        assert sorted((octet % 8).tolist()) == list(range(8))


def test_a_layer_without_weights_can_be_packed() -> None:
    units = from_vectors(for_spec(parse("ovw:32")).pack(torch.zeros(32, 64, 1, 1)))
    packed = pack(units, 1, swizzled=True, parts=(units.values.half(),))
    assert packed.records[:, :-32].count_nonzero() == 0
    assert packed.stages == 1


def test_two_planes_carry_float32() -> None:
    made, unscale = scaled(from_dense(torch.randn(64, 64, 1, 1)))
    high = made.values.half()
    low = (made.values - high.float()).half()
    error = (high.double() + low.double() - made.values.double()).abs()
    assert error.max() <= 2.0**-22 * made.values.abs().max()
    assert torch.equal(unscale.log2(), unscale.log2().round())

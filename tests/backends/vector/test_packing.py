"""Packed weights of the gather kernels hold every weight once, where ldmatrix finds its row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from csbench.backends.vector.units import from_dense, from_vectors
from csbench.core.pattern import parse
from csbench.kernels.gather.deal import most_steps
from csbench.kernels.gather.pack import (
    EMPTY,
    NEXT_STAGE,
    STAGE_ENDS,
    Packed,
    by_tap,
    by_window,
    pack,
    scaled,
)
from csbench.sparse.patterns import for_spec
from tests.backends.vector.shapes import units_of


def records(packed: Packed, size: int, planes: int, channels: int = 64) -> tuple[Tensor, Tensor]:
    """Rows [records, 16] from the stage's first and weights [records, 16, rows of a unit].

    Rows are -1 in a record without weights.
    """
    count = len(packed.records)
    address = packed.records[:, -32:].contiguous().view(torch.int16).long() & 0xFFFF
    marked = (address & STAGE_ENDS != 0).all(1).nonzero()[:, 0]
    assert torch.equal(marked, packed.starts[:, 1:].flatten().long() - 1)
    address &= STAGE_ENDS - 1
    empty, ahead = address & EMPTY != 0, address & NEXT_STAGE != 0
    assert torch.equal(empty.any(1), empty.all(1))
    assert not ahead.any(1)[[i for i in range(count) if i not in set(marked.tolist())]].any()
    rows = address // 128
    assert torch.equal((address % 128)[~empty], (rows % 8 * 16 + ahead)[~empty])  # swizzled by 128
    rows = torch.where(empty, -1, rows + ahead * packed.boxes_of_stage * channels)
    total = torch.zeros(count, 16, size, dtype=torch.float64)
    for plane in packed.records[:, :-32].reshape(count, planes, -1).unbind(1):
        words = plane.contiguous().view(torch.float16).double()
        lanes = words.reshape(count, -1, 8, 4, min(2, size // 8), 2, 2)  # pair, g, t, n8, +8, k
        total += lanes.permute(0, 5, 3, 6, 1, 4, 2).reshape(count, 16, size)
    return rows, total


SPECS = [
    "dense", "ovw:32@50%", "ovw:64@75%", "shfl-bw:16@87.5%", "ovw:8@93.75%", "ovw:12@75%",
    "block:32x16@75%", "block:12x32@50%",
]  # fmt: skip


@pytest.mark.parametrize("spans", [True, False])
@pytest.mark.parametrize("boxes", [1, 2, 4])
@pytest.mark.parametrize("spec", SPECS)
def test_records_hold_every_weight_once(spec: str, boxes: int, spans: bool) -> None:
    weight, units = units_of(torch.randn(96, 100, 3, 1), spec)
    packed = pack(
        units, by_tap(units, boxes), swizzled=True, parts=(units.values.half(),), spans=spans
    )
    rows, values = records(packed, units.size, 1)
    found = torch.zeros(96 + 1, 3, 128, dtype=torch.float64)
    for unit, channels in enumerate(units.rows.long()):
        for stage in range(packed.stages):
            for r in range(int(packed.starts[unit, stage]), int(packed.starts[unit, stage + 1])):
                if (rows[r] < 0).all():
                    assert not values[r].any()
                    continue
                box = packed.boxes[stage * boxes + rows[r] // 64]
                at = channels[:, None], box[:, 0].long(), box[:, 1] + rows[r] % 64
                found.index_put_(at, values[r].T, accumulate=True)  # padding adds zeros
    assert torch.equal(found[:96, :, :100].permute(0, 2, 1), weight[..., 0].half().double())


@pytest.mark.parametrize("spans", [True, False])
@pytest.mark.parametrize("spec", SPECS)
def test_windows_hold_every_weight_once(spec: str, spans: bool) -> None:
    """Rows are the taps of the first of 2 x 2 output pixels; the others' lie a fixed way on."""
    weight, units = units_of(torch.randn(96, 40, 3, 2), spec)
    stages = by_window(units, (4, 3))
    packed = pack(units, stages, swizzled=True, parts=(units.values.half(),), spans=spans)
    rows, values = records(packed, units.size, 1, channels=16)
    found = torch.zeros(96 + 1, 48, 4, 3, dtype=torch.float64)
    assert packed.stages == 3
    for unit, channels in enumerate(units.rows.long()):
        for stage in range(packed.stages):
            for r in range(int(packed.starts[unit, stage]), int(packed.starts[unit, stage + 1])):
                if (rows[r] < 0).all():
                    continue
                box = packed.boxes[stage * 12 + rows[r] // 16].long()
                at = channels[:, None], box[:, 1] + rows[r] % 16, box[:, 0] // 3, box[:, 0] % 3
                found.index_put_(at, values[r].T, accumulate=True)  # padding adds zeros
    assert torch.equal(found[:96, :40, :3, :2], weight.half().double())
    assert not found[:96, :, 3].any() and not found[:96, :, :, 2].any()


def test_padding_is_left_at_the_end_only() -> None:
    """21 columns in each of 6 stages fill 8 records; 36 in each of 3 fill 7."""
    for boxes, kept, wanted in ((1, 21, 8), (2, 36, 7)):
        weight = torch.zeros(8, 64 * 6, 1, 1)
        for stage in range(6 // boxes):
            weight[:, 64 * boxes * stage + torch.randperm(64 * boxes)[:kept]] = 1.0
        units = from_vectors(for_spec(parse("ovw:8")).pack(weight))
        for spans, count in ((True, wanted), (False, 12 if boxes == 1 else 9)):
            made = pack(
                units,
                by_tap(units, boxes),
                swizzled=True,
                parts=(units.values.half(),),
                spans=spans,
            )
            assert len(made.records) == count


@pytest.mark.parametrize("spans", [True, False])
@pytest.mark.parametrize("spec", SPECS[1:])
def test_no_channel_is_read_that_only_zeros_would_meet(spec: str, spans: bool) -> None:
    _, units = units_of(torch.randn(96, 100, 3, 1), spec)
    packed = pack(units, by_tap(units, 1), swizzled=True, parts=(units.values.half(),), spans=spans)
    rows, _ = records(packed, units.size, 1)
    for unit in range(units.count):
        kept = set(units.columns[units.unit == unit].tolist())
        for stage in range(packed.stages):
            for r in range(int(packed.starts[unit, stage]), int(packed.starts[unit, stage + 1])):
                read = rows[r][rows[r] >= 0]
                box = packed.boxes[stage + read // 64]
                assert set((box[:, 0] * 100 + box[:, 1] + read % 64).tolist()) <= kept


def test_rows_of_a_matrix_lie_in_different_banks_where_they_can() -> None:
    units = from_dense(torch.randn(32, 64, 1, 1))
    packed = pack(units, by_tap(units, 1), swizzled=True, parts=(units.values.half(),))
    rows, _ = records(packed, 32, 1)
    assert (rows.reshape(-1, 8).sort(1).values % 8).sort(1).values.eq(torch.arange(8)).all()


@pytest.mark.parametrize(("boxes", "wanted"), [(1, 1.55), (2, 1.4), (4, 1.3)])
def test_few_octets_read_a_bank_twice(boxes: int, wanted: float) -> None:
    """Accesses of an octet: the most rows that it reads from a bank. Chance alone makes it 2.3."""
    _, units = units_of(torch.randn(128, 256, 3, 3), "ovw:32@50%")
    packed = pack(
        units, by_tap(units, boxes), swizzled=True, parts=(units.values.half(),), spans=True
    )
    rows, _ = records(packed, 32, 1)
    banks = torch.nn.functional.one_hot(rows.reshape(-1, 8) % 8, 8)
    assert banks.sum(1).amax(1).float().mean() < wanted


def test_padding_repeats_rows_of_its_octet() -> None:
    weight = torch.zeros(8, 64, 1, 1)
    weight[:, [8, 17, 26]] = 1.0
    units = from_vectors(for_spec(parse("ovw:8")).pack(weight))
    packed = pack(units, by_tap(units, 1), swizzled=True, parts=(units.values.half(),))
    rows, values = records(packed, 8, 1)
    assert rows.shape == (1, 16)
    assert sorted(rows[0][values[0, :, 0] != 0].tolist()) == [8, 17, 26]
    for row, value in zip(rows.reshape(-1, 8), values.reshape(-1, 8, 8), strict=True):
        assert set(row.tolist()) == set(row[value[:, 0] != 0].tolist())


def test_a_layer_without_weights_can_be_packed() -> None:
    units = from_vectors(for_spec(parse("ovw:32")).pack(torch.zeros(32, 64, 1, 1)))
    packed = pack(units, by_tap(units, 1), swizzled=True, parts=(units.values.half(),))
    assert packed.records[:, :-32].count_nonzero() == 0
    assert packed.stages == 1


def test_two_planes_carry_float32() -> None:
    made, unscale = scaled(from_dense(torch.randn(64, 64, 1, 1)))
    high = made.values.half()
    low = (made.values - high.float()).half()
    error = (high.double() + low.double() - made.values.double()).abs()
    assert error.max() <= 2.0**-22 * made.values.abs().max()
    assert torch.equal(unscale.log2(), unscale.log2().round())


@pytest.mark.parametrize("spans", [False, True])
def test_a_stage_has_room_for_the_most_records(spans: bool) -> None:
    _, units = units_of(torch.randn(64, 130, 3, 3), "ovw:32@75%")
    stages = by_tap(units, 2)
    packed = pack(units, stages, swizzled=False, parts=(units.values.half(),), spans=spans)
    most = most_steps(units.unit, stages.stage, (units.count, stages.number), spans)
    assert most == int(packed.starts.diff(dim=1).max())

"""Packed weights, boxes and places of the gather kernels, by an emulation of the kernel."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from csbench.core.pattern import parse
from csbench.graph import reference
from csbench.kernels.gather.geometry import geometry
from csbench.kernels.gather.pack import Units, from_dense, from_vectors, pack, scaled
from csbench.sparse.patterns import for_spec
from tests.backends.vector import emulation
from tests.backends.vector.shapes import layer, shape

SHAPES = {
    "1x1": layer(64, 32, (3, 2)),
    "3x3": layer(70, 40, (4, 5), kernel=3),
    "3x3 stride 2": layer(24, 16, (7, 6), kernel=3, stride=2),
    "1x1 stride 3": layer(16, 32, (7, 8), stride=3),
    "dilated": layer(8, 24, (6, 7), kernel=3, dilation=2),
    "unpadded": layer(130, 16, (3, 4), kernel=3, padding=0),
}


def units_of(weight: Tensor, spec: str) -> tuple[Tensor, Units]:
    """The pruned weight and its units."""
    if spec == "dense":
        return weight, from_dense(weight)
    pattern = for_spec(parse(spec))
    weight = weight * pattern.mask(weight)
    return weight, from_vectors(pattern.pack(weight))


@pytest.mark.parametrize("images", [1, 3, 8, 20, 50, 70])
@pytest.mark.parametrize("name", SHAPES)
def test_boxes_and_places_make_a_convolution(name: str, images: int) -> None:
    if images > 20 and name not in ("3x3 stride 2", "1x1"):
        pytest.skip("large batches differ from one another in the layout alone")
    weight, units = units_of(SHAPES[name].weight, "ovw:8@50%")
    conv = replace(SHAPES[name], weight=weight, bias=torch.zeros(len(weight)), activation="none")
    s = shape(conv, images)
    g = geometry(s)
    made, unscale = scaled(units)
    parts = (made.values.half(), (made.values - made.values.half().float()).half())
    packed = pack(made, 2, swizzled=g.swizzled, parts=parts)
    x = torch.randn(images, *conv.input_size)
    out = emulation.convolve(s, g, made, packed, 2, x)
    for row, channel in enumerate(units.rows.flatten().tolist()):
        if channel >= 0:
            out[:, channel] *= unscale[row].double()
    assert reference.relative_error(out, reference.convolution(conv, x)) < 1e-6


@pytest.mark.parametrize("boxes", [1, 2, 4])
@pytest.mark.parametrize(
    "spec", ["dense", "ovw:32@50%", "ovw:64@75%", "shfl-bw:16@87.5%", "ovw:8@93.75%", "ovw:12@75%"]
)
def test_records_hold_every_weight_once(spec: str, boxes: int) -> None:
    weight, units = units_of(torch.randn(96, 100, 3, 1), spec)
    packed = pack(units, boxes, swizzled=True, parts=(units.values.half(),))
    rows, values = emulation.records(packed, units.size, 1, swizzled=True)
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
    rows, _ = emulation.records(packed, 32, 1, swizzled=True)
    assert (rows.reshape(-1, 8).sort(1).values % 8).sort(1).values.eq(torch.arange(8)).all()


def test_padding_reads_rows_that_are_there_and_idle_banks() -> None:
    weight = torch.zeros(8, 64, 1, 1)
    weight[:, [8, 17, 26]] = 1.0
    units = from_vectors(for_spec(parse("ovw:8")).pack(weight))
    packed = pack(units, 1, swizzled=True, parts=(units.values.half(),))
    rows, values = emulation.records(packed, 8, 1, swizzled=True)
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

"""In the flat space every tap of an output position is a shift, padding and strides included."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from csbench.graph.program import output_hw
from csbench.kernels.csr.space import Shape, Space

# kernel, stride, padding, dilation
GEOMETRIES = (
    ((1, 1), (1, 1), (0, 0), (1, 1)), ((1, 1), (2, 2), (0, 0), (1, 1)),
    ((3, 3), (1, 1), (1, 1), (1, 1)), ((3, 3), (2, 2), (1, 1), (1, 1)),
    ((3, 3), (1, 1), (0, 0), (1, 1)), ((3, 3), (1, 1), (2, 2), (2, 2)),
    ((5, 5), (3, 3), (2, 2), (1, 1)), ((3, 1), (2, 1), (1, 0), (1, 1)),
    ((1, 1), (1, 1), (1, 1), (1, 1)), ((3, 3), (2, 2), (2, 2), (2, 2)),
    ((7, 7), (2, 2), (3, 3), (1, 1)), ((2, 4), (1, 1), (3, 1), (1, 2)),
)  # fmt: skip


def shape(size: tuple[int, int], geometry, images: int = 2, channels: int = 3) -> Shape:
    kernel, stride, padding, dilation = geometry
    out = output_hw(size, kernel, stride, padding, dilation)
    return Shape(images, channels, size, 4, out, kernel, stride, padding, dilation)


def staged(x: Tensor, space: Space) -> Tensor:
    """[phases, channels, positions + reach]: what a block over everything would copy."""
    given = space.shape
    flat = torch.arange(space.positions + space.reach)
    image, rest = (
        flat // (space.y.length * space.x.length),
        flat % (space.y.length * space.x.length),
    )
    planes = []
    for phase_y in space.y.phases:
        for phase_x in space.x.phases:
            row = rest // space.x.length * given.stride[0] + phase_y - given.padding[0]
            column = rest % space.x.length * given.stride[1] + phase_x - given.padding[1]
            inside = (image < given.images) & (row >= 0) & (row < given.size[0])
            inside &= (column >= 0) & (column < given.size[1])
            at = [
                t.clamp(0, n - 1)
                for t, n in zip((image, row, column), (len(x), *given.size), strict=True)
            ]
            planes.append(x[at[0], :, at[1], at[2]].T * inside)
    return torch.stack(planes)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("size", [(7, 7), (9, 11), (4, 6)], ids=str)
def test_taps_are_shifts(size: tuple[int, int], geometry) -> None:
    given = shape(size, geometry)
    if min(given.out_size) < 1:
        pytest.skip("the kernel is larger than the image")
    space = Space.of(given)
    x, weight = torch.randn(2, 3, *size), torch.randn(4, 3, *given.kernel)
    planes = staged(x, space)
    total = torch.zeros(4, space.positions)
    for tap, (phase, shift) in enumerate(space.taps):
        total += weight.flatten(2)[:, :, tap] @ planes[phase][:, shift : shift + space.positions]
    lines = total.view(4, 2, space.y.length, space.x.length)
    found = lines[:, :, : given.out_size[0], : given.out_size[1]].transpose(0, 1)
    expected = F.conv2d(x, weight, None, given.stride, given.padding, given.dilation)
    assert torch.allclose(found, expected, atol=1e-4)


def test_lines_share_their_padding() -> None:
    space = Space.of(shape((7, 7), ((3, 3), (1, 1), (1, 1), (1, 1))))
    assert (space.y.length, space.x.length, space.reach) == (8, 8, 18)
    unpadded = Space.of(shape((7, 7), ((3, 3), (1, 1), (0, 0), (1, 1))))
    assert (unpadded.y.length, unpadded.x.length) == (7, 7)  # of a 5x5 output
    plain = Space.of(shape((7, 9), ((1, 1), (1, 1), (0, 0), (1, 1))))
    assert plain.is_plain and plain.positions == 2 * 7 * 9
    assert not Space.of(shape((7, 9), ((1, 1), (2, 2), (0, 0), (1, 1)))).is_plain

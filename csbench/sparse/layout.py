"""One weight seen in different ways: as a matrix, as blocks, as groups. All of them are reshapes.

A weight is OIHW `[Cout, Cin, kh, kw]`; a linear layer `[out, in]` counts as kh = kw = 1. A *tap* is
a kernel position, tap = r * kw + s, and a *column* is tap * Cin + channel: the row of an im2col
matrix with channels innermost.
"""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor

from csbench.core.pattern import PatternSpec
from csbench.errors import PatternError

Shape = tuple[int, int, int, int]


def as_oihw(weight: Tensor) -> Tensor:
    """The weight with four axes; a linear layer's `[out, in]` becomes `[out, in, 1, 1]`."""
    if weight.ndim == 2:
        return weight[:, :, None, None]
    if weight.ndim != 4:
        raise PatternError(
            f"a weight of shape {list(weight.shape)} cannot carry a pattern; expected OIHW "
            "[Cout, Cin, kh, kw] or [out, in]"
        )
    return weight


def shape_of(weight: Tensor) -> Shape:
    """The weight's OIHW shape."""
    cout, cin, kh, kw = as_oihw(weight).shape
    return cout, cin, kh, kw


def as_matrix(weight: Tensor) -> Tensor:
    """`[Cout, taps * Cin]`: one column per tap and input channel, channels innermost."""
    weight = as_oihw(weight)
    return weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1)


def from_matrix(matrix: Tensor, shape: Shape) -> Tensor:
    """The inverse of as_matrix: OIHW from `[Cout, taps * Cin]`."""
    cout, cin, kh, kw = shape
    return matrix.reshape(cout, kh, kw, cin).permute(0, 3, 1, 2).contiguous()


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def to_blocks(weight: Tensor, rows: int, columns: int) -> Tensor:
    """`[block_rows, taps * channel_blocks, R, C]`; ragged edges are padded with zeros."""
    cout, cin, kh, kw = shape_of(weight)
    by_tap = as_oihw(weight).permute(0, 2, 3, 1)
    padded = F.pad(by_tap, (0, -cin % columns, 0, 0, 0, 0, 0, -cout % rows))
    shape = (ceil_div(cout, rows), rows, kh * kw, ceil_div(cin, columns), columns)
    return padded.reshape(shape).permute(0, 2, 3, 1, 4).flatten(1, 2)


def from_blocks(blocks: Tensor, shape: Shape) -> Tensor:
    """The inverse of to_blocks; what lies in the padding is dropped."""
    cout, cin, kh, kw = shape
    block_rows, count, rows, width = blocks.shape
    split = blocks.reshape(block_rows, kh * kw, count // (kh * kw), rows, width)
    split = split.permute(0, 3, 1, 2, 4)
    by_tap = split.reshape(block_rows * rows, kh, kw, -1)[:cout, :, :, :cin]
    return by_tap.permute(0, 3, 1, 2).contiguous()


def to_groups(weight: Tensor, m: int, span: int) -> Tensor:
    """`[Cout, taps, G, M]`: the M candidates of every group side by side, G = Cin / M.

    A group is repeated every `span` channels and its members lie span / M apart: member j of group
    g is channel `g // (span/M) * span + j * (span/M) + g % (span/M)`. span = M is N:M's grouping of
    neighbours, span = Cin that of Complementary Sparsity. M must divide span, and span Cin.
    """
    cout, cin, kh, kw = shape_of(weight)
    split = as_oihw(weight).reshape(cout, cin // span, m, span // m, kh * kw)
    return split.permute(0, 4, 1, 3, 2).flatten(2, 3)


def from_groups(groups: Tensor, shape: Shape, span: int) -> Tensor:
    """The inverse of to_groups."""
    cout, cin, _, _ = shape
    m = groups.shape[3]
    split = groups.reshape(cout, -1, cin // span, span // m, m)
    return split.permute(0, 2, 4, 3, 1).reshape(shape).contiguous()


def group_geometry(spec: PatternSpec, cin: int) -> tuple[int, int, int]:
    """(N, M, span) of an `nm:N:M`, `cs:M` or `cs:M:S` specification for Cin input channels."""
    if spec.name == "nm" and len(spec.parameters) == 2:
        n, m = spec.parameters
        return n, m, m
    if spec.name == "cs" and spec.parameters:
        span = spec.parameters[1] if len(spec.parameters) == 2 else cin
        return 1, spec.parameters[0], span
    raise PatternError(f"pattern '{spec}' has no groups; expected nm:N:M, cs:M or cs:M:S")

"""Packed weights: what a kernel reads instead of zeros, each format one small object.

Taps, columns, blocks and groups are those of csbench.sparse.layout. Packing loses nothing:
`unpack()` equals the weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor

from csbench.core.pattern import PatternSpec
from csbench.errors import PatternError
from csbench.sparse.layout import (
    Shape,
    as_matrix,
    as_oihw,
    ceil_div,
    from_blocks,
    from_groups,
    from_matrix,
    group_geometry,
    shape_of,
    to_blocks,
    to_groups,
)

VALUE_BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2}


class Packed(Protocol):
    """A weight in packed form, with the bytes that its values and its indices take."""

    @property
    def shape(self) -> Shape: ...
    @property
    def index_bytes(self) -> int: ...
    def value_bytes(self, dtype: str = "fp32") -> int: ...
    def unpack(self) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class BlockPacked:
    """Block compressed sparse rows: blocks of R output by C input channels at one tap.

    Block i holds `values[i]`; block row b owns blocks `row_offsets[b]:row_offsets[b + 1]`, with
    ascending `columns`; block column = tap * ceil(Cin / C) + channel_block. Edges are zero-padded.
    """

    shape: Shape
    block: tuple[int, int]
    values: Tensor  # float32 [nblocks, R, C]
    row_offsets: Tensor  # int32 [block_rows + 1]
    columns: Tensor  # int32 [nblocks]

    @classmethod
    def pack(cls, weight: Tensor, block: tuple[int, int] = (32, 32)) -> BlockPacked:
        """Keep every block that holds a nonzero; any weight can be packed so."""
        blocks = to_blocks(weight.detach(), *block)
        kept = (blocks != 0).flatten(2).any(2)
        return cls(
            shape_of(weight), block, blocks[kept],
            _offsets(kept.sum(1)), kept.nonzero()[:, 1].to(torch.int32),
        )  # fmt: skip

    def unpack(self) -> Tensor:
        """The OIHW weight."""
        cout, cin, kh, kw = self.shape
        rows, columns = self.block
        count = (ceil_div(cout, rows), kh * kw * ceil_div(cin, columns))
        blocks = self.values.new_zeros((*count, rows, columns))
        blocks[_row_of_each(self.row_offsets), self.columns.long()] = self.values
        return from_blocks(blocks, self.shape)

    def value_bytes(self, dtype: str = "fp32") -> int:
        """Bytes of the stored values, padding included."""
        return self.values.numel() * VALUE_BYTES[dtype]

    @property
    def index_bytes(self) -> int:
        """Bytes of row offsets and columns."""
        return _nbytes(self.row_offsets, self.columns)


@dataclass(frozen=True, eq=False)
class GroupPacked:
    """N kept weights of every group of M (`nm` and `cs`): values and which member each one is.

    `choice` ascends inside a group; see to_groups for the channel of a member. A group with fewer
    than N nonzeros stores zeros.
    """

    shape: Shape
    spec: PatternSpec
    values: Tensor  # float32 [Cout, taps, G, N]
    choice: Tensor  # uint8 [Cout, taps, G, N]

    @classmethod
    def pack(cls, weight: Tensor, spec: PatternSpec) -> GroupPacked:
        """Raises PatternError where M does not divide Cin, or a group keeps more than N."""
        shape = shape_of(weight)
        n, m, span = group_geometry(spec, shape[1])
        if shape[1] % span or span % m or m > 256:
            raise PatternError(f"pattern '{spec}' cannot divide {shape[1]} input channels")
        groups = to_groups(weight.detach(), m, span)
        nonzero = groups != 0
        most = int(nonzero.sum(3).max()) if groups.numel() else 0
        if most > n:
            raise PatternError(
                f"a weight of shape {list(shape)} keeps {most} of a group of {m} channels; "
                f"pattern '{spec}' allows {n}"
            )
        # Nonzeros first (the sort is stable, so in ascending order), then empty slots.
        choice = torch.sort(nonzero.to(torch.uint8), dim=3, descending=True, stable=True)[1]
        choice = choice[..., :n].sort(3)[0]
        return cls(shape, spec, groups.gather(3, choice), choice.to(torch.uint8))

    @property
    def geometry(self) -> tuple[int, int, int]:
        """(N, M, span); see to_groups."""
        return group_geometry(self.spec, self.shape[1])

    def channels(self) -> Tensor:
        """The input channel of every kept weight, int32 `[Cout, taps, G, N]`."""
        _, m, span = self.geometry
        stride = span // m
        g = torch.arange(self.shape[1] // m)[:, None]
        return (g // stride * span + self.choice.long() * stride + g % stride).to(torch.int32)

    def unpack(self) -> Tensor:
        """The OIHW weight."""
        _, m, span = self.geometry
        groups = self.values.new_zeros((*self.values.shape[:3], m))
        groups.scatter_(3, self.choice.long(), self.values)
        return from_groups(groups, self.shape, span)

    def value_bytes(self, dtype: str = "fp32") -> int:
        """Bytes of the stored values."""
        return self.values.numel() * VALUE_BYTES[dtype]

    @property
    def index_bytes(self) -> int:
        """Bytes of the choices, one each as held here; a kernel may pack them to log2(M) bits."""
        return _nbytes(self.choice)


@dataclass(frozen=True, eq=False)
class VectorPacked:
    """V x 1 vectors (`ovw`, `shfl-bw`): V output channels share the columns that they keep.

    Group g computes the output channels `row_permutation[g * V : (g + 1) * V]` from the columns
    `columns[column_offsets[g] : column_offsets[g + 1]]` (tap * Cin + channel, ascending), with one
    row of `values` per column. Where V does not divide Cout the last group is zero-padded.
    """

    shape: Shape
    vector: int  # V
    values: Tensor  # float32 [total, V]
    row_permutation: Tensor  # int32 [Cout]
    column_offsets: Tensor  # int32 [groups + 1]
    columns: Tensor  # int32 [total]

    @classmethod
    def pack(cls, weight: Tensor, vector: int, row_permutation: Tensor) -> VectorPacked:
        """Keep, in every group of V permuted rows, the columns that hold a nonzero."""
        shape = shape_of(weight)
        matrix = as_matrix(weight.detach())[row_permutation.long()]
        padded = F.pad(matrix, (0, 0, 0, -shape[0] % vector))
        by_column = padded.reshape(-1, vector, matrix.shape[1]).transpose(
            1, 2
        )  # [groups, columns, V]
        kept = (by_column != 0).any(2)
        return cls(
            shape, vector, by_column[kept], row_permutation.to(torch.int32),
            _offsets(kept.sum(1)), kept.nonzero()[:, 1].to(torch.int32),
        )  # fmt: skip

    def unpack(self) -> Tensor:
        """The OIHW weight, rows in their own order."""
        cout, cin, kh, kw = self.shape
        groups = len(self.column_offsets) - 1
        by_column = self.values.new_zeros((groups, kh * kw * cin, self.vector))
        by_column[_row_of_each(self.column_offsets), self.columns.long()] = self.values
        permuted = by_column.transpose(1, 2).flatten(0, 1)[:cout]
        matrix = torch.empty_like(permuted)
        matrix[self.row_permutation.long()] = permuted
        return from_matrix(matrix, self.shape)

    def value_bytes(self, dtype: str = "fp32") -> int:
        """Bytes of the stored values, padding included."""
        return self.values.numel() * VALUE_BYTES[dtype]

    @property
    def index_bytes(self) -> int:
        """Bytes of the row permutation, column offsets and columns."""
        return _nbytes(self.row_permutation, self.column_offsets, self.columns)


@dataclass(frozen=True, eq=False)
class CsrPacked:
    """Compressed sparse rows of the `[Cout, taps * Cin]` matrix (`unstructured`)."""

    shape: Shape
    values: Tensor  # float32 [nonzeros]
    row_offsets: Tensor  # int32 [Cout + 1]
    columns: Tensor  # int32 [nonzeros], tap * Cin + channel, ascending in a row

    @classmethod
    def pack(cls, weight: Tensor) -> CsrPacked:
        """Keep the nonzeros; any weight can be packed so."""
        matrix = as_matrix(weight.detach())
        kept = matrix != 0
        columns = kept.nonzero()[:, 1].to(torch.int32)
        return cls(shape_of(weight), matrix[kept], _offsets(kept.sum(1)), columns)

    def unpack(self) -> Tensor:
        """The OIHW weight."""
        cout, cin, kh, kw = self.shape
        matrix = self.values.new_zeros((cout, kh * kw * cin))
        matrix[_row_of_each(self.row_offsets), self.columns.long()] = self.values
        return from_matrix(matrix, self.shape)

    def value_bytes(self, dtype: str = "fp32") -> int:
        """Bytes of the stored values."""
        return self.values.numel() * VALUE_BYTES[dtype]

    @property
    def index_bytes(self) -> int:
        """Bytes of row offsets and columns."""
        return _nbytes(self.row_offsets, self.columns)


@dataclass(frozen=True, eq=False)
class DensePacked:
    """The weight as it is."""

    shape: Shape
    values: Tensor  # float32 OIHW

    index_bytes = 0

    @classmethod
    def pack(cls, weight: Tensor) -> DensePacked:
        return cls(shape_of(weight), as_oihw(weight.detach()).contiguous())

    def unpack(self) -> Tensor:
        """The OIHW weight."""
        return self.values

    def value_bytes(self, dtype: str = "fp32") -> int:
        """Bytes of all weights."""
        return self.values.numel() * VALUE_BYTES[dtype]


def _offsets(counts: Tensor) -> Tensor:
    """int32 [n + 1]: where each row's entries begin, and at the end how many there are."""
    return F.pad(counts.cumsum(0), (1, 0)).to(torch.int32)


def _row_of_each(offsets: Tensor) -> Tensor:
    """The row of every entry, from the rows' offsets."""
    return torch.arange(len(offsets) - 1).repeat_interleave(offsets.diff().long())


def _nbytes(*tensors: Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)

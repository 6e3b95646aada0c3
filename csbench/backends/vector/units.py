"""A layer's weights as units of output channels, which is what the gather kernels take."""

from __future__ import annotations

import torch
from torch import Tensor

from csbench.core.pattern import PatternSpec
from csbench.errors import PatternError
from csbench.graph.program import Conv
from csbench.kernels.gather.layout import EIGHT
from csbench.kernels.gather.pack import UNITS, Units
from csbench.sparse.formats import VectorPacked
from csbench.sparse.layout import as_matrix
from csbench.sparse.patterns import for_spec


def units_of(conv: Conv) -> Units:
    """The layer's weights as units; all columns kept where it carries no pattern.

    Raises PatternError where the weights break their pattern.
    """
    if conv.pattern is None:
        return from_dense(conv.weight)
    return from_vectors(vectors_of(conv.weight, conv.pattern))


def in_runs(conv: Conv) -> bool:
    """Whether the columns that a layer keeps come in runs of neighbours: those of blocks do."""
    return conv.pattern is not None and conv.pattern.name == "block"


def vectors_of(weight: Tensor, spec: PatternSpec) -> VectorPacked:
    """Weights of a pattern whose output channels share columns, as vectors."""
    if spec.name == "block":  # its rows keep the same columns
        rows = torch.arange(len(weight), dtype=torch.int32)
        return VectorPacked.pack(weight, spec.parameters[0], rows)
    packed = for_spec(spec).pack(weight)
    if isinstance(packed, VectorPacked):
        return packed
    raise PatternError(f"pattern '{spec}' has no vectors; expected ovw:V, shfl-bw:V or block:VxC")


def from_vectors(packed: VectorPacked) -> Units:
    """Vectors of V output channels as units: the largest size that divides V (or V filled up)."""
    cout, cin, kh, kw = packed.shape
    v = packed.vector
    filled = -(-v // EIGHT) * EIGHT
    size = next(n for n in UNITS if filled % n == 0)
    groups, parts = len(packed.column_offsets) - 1, filled // size
    rows = torch.full((groups * v,), -1, dtype=torch.int32)
    rows[:cout] = packed.row_permutation
    padded = torch.full((groups, filled), -1, dtype=torch.int32)
    padded[:, :v] = rows.reshape(groups, v)
    values = torch.nn.functional.pad(packed.values, (0, filled - v))
    counts = packed.column_offsets.diff().long()
    group = torch.arange(groups).repeat_interleave(counts)
    # Unit p of a group takes its rows p * size and on, and all its columns.
    unit = (group * parts + torch.arange(parts)[:, None]).reshape(-1)
    order = unit.argsort(stable=True)
    split = values.reshape(-1, parts, size).transpose(0, 1).reshape(-1, size)
    columns = packed.columns.long().repeat(parts)
    if not len(columns):  # no weight at all: the kernel wants one
        unit = columns = order = torch.zeros(1, dtype=torch.int64)
        split = values.new_zeros(1, size)
    return Units(cin, kh * kw, padded.reshape(-1, size), unit[order], columns[order], split[order])


def from_dense(weight: Tensor) -> Units:
    """Every column kept, rows as they come."""
    cout, cin, kh, kw = weight.shape
    size = next((n for n in reversed(UNITS) if cout <= n), UNITS[0])
    count, columns = -(-cout // size), cin * kh * kw
    matrix = torch.nn.functional.pad(as_matrix(weight), (0, 0, 0, count * size - cout))
    rows = torch.full((count * size,), -1, dtype=torch.int32)
    rows[:cout] = torch.arange(cout, dtype=torch.int32)
    return Units(
        cin, kh * kw, rows.reshape(count, size), torch.arange(count).repeat_interleave(columns),
        torch.arange(columns).repeat(count),
        matrix.reshape(count, size, columns).transpose(1, 2).reshape(-1, size),
    )  # fmt: skip

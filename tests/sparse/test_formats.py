"""Packing loses nothing, and the indices mean what the formats say, on awkward shapes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from csbench.core.pattern import parse
from csbench.errors import PatternError
from csbench.sparse import formats, layout


def random_weight(shape: tuple[int, ...], density: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator)
    return weight * (torch.rand(shape, generator=generator) < density)


shapes = st.tuples(st.integers(1, 13), st.integers(1, 13), st.integers(1, 3), st.integers(1, 3))
weights = st.builds(random_weight, shapes, st.sampled_from([0, 0.1, 0.5, 1]), st.integers(0, 99))


@settings(max_examples=60, deadline=None)
@given(weights, st.integers(1, 5), st.integers(1, 5))
def test_block_packing_loses_nothing(weight: Tensor, rows: int, columns: int) -> None:
    packed = formats.BlockPacked.pack(weight, (rows, columns))
    assert torch.equal(packed.unpack(), weight)
    assert packed.values.shape[1:] == (rows, columns)


@settings(max_examples=60, deadline=None)
@given(weights, st.integers(1, 6), st.randoms())
def test_vector_packing_loses_nothing(weight: Tensor, vector: int, random: object) -> None:
    permutation = torch.randperm(weight.shape[0])
    packed = formats.VectorPacked.pack(weight, vector, permutation)
    assert torch.equal(packed.unpack(), weight)


@settings(max_examples=40, deadline=None)
@given(weights)
def test_csr_packing_loses_nothing(weight: Tensor) -> None:
    packed = formats.CsrPacked.pack(weight)
    assert torch.equal(packed.unpack(), weight)
    assert packed.values.numel() == int(weight.count_nonzero())


@pytest.mark.parametrize("text", ["nm:2:4", "nm:1:4", "nm:3:3", "cs:4", "cs:2:6", "cs:3", "cs:1"])
def test_group_packing_loses_nothing(text: str) -> None:
    spec = parse(text)
    weight = random_weight((5, 12, 3, 2), 1, 0)
    n, m, span = layout.group_geometry(spec, 12)
    groups = layout.to_groups(weight, m, span)
    order = groups.abs().argsort(3, descending=True)
    pruned = groups.scatter(3, order[..., n:], 0)
    weight = layout.from_groups(pruned, (5, 12, 3, 2), span)
    packed = formats.GroupPacked.pack(weight, spec)
    assert torch.equal(packed.unpack(), weight)
    assert (packed.choice.long().diff(dim=3) > 0).all()


def test_group_packing_keeps_a_group_with_fewer_nonzeros() -> None:
    weight = torch.zeros(1, 8, 1, 1)
    weight[0, 3] = 2.0
    packed = formats.GroupPacked.pack(weight, parse("nm:2:4"))
    assert packed.values.flatten().tolist() == [0, 2, 0, 0]
    assert packed.choice.flatten().tolist() == [0, 3, 0, 1]
    assert torch.equal(packed.unpack(), weight)


@pytest.mark.parametrize(
    ("text", "channel"),
    [
        ("nm:1:4", lambda g, j: g * 4 + j),
        ("cs:4", lambda g, j: j * 4 + g),
        ("cs:4:8", lambda g, j: g // 2 * 8 + j * 2 + g % 2),
        ("cs:4:4", lambda g, j: g * 4 + j),
    ],
)
def test_members_of_a_group_lie_where_the_pattern_says(text: str, channel: object) -> None:
    assert callable(channel)
    spec = parse(text)
    for g in range(4):
        for j in range(4):
            weight = torch.zeros(2, 16, 1, 2)
            weight[1, channel(g, j), 0, 1] = 5.0
            packed = formats.GroupPacked.pack(weight, spec)
            assert packed.values[1, 1, g, 0] == 5.0
            assert packed.choice[1, 1, g, 0] == j
            assert packed.channels()[1, 1, g, 0] == channel(g, j)


def test_spacing_by_channels_is_spacing_in_the_flattened_row() -> None:
    # "Spaced by K/M in the flattened OIHW row" and "spaced Cin/M channels at one tap" are one set.
    weight = torch.arange(2 * 8 * 3 * 3, dtype=torch.float32).reshape(2, 8, 3, 3)
    groups = layout.to_groups(weight, 4, 8)
    flat = weight.reshape(2, 4, -1).transpose(1, 2)
    assert {tuple(g) for g in groups.flatten(0, 2).tolist()} == {
        tuple(g) for g in flat.flatten(0, 1).tolist()
    }


def test_block_columns_count_taps_first() -> None:
    weight = torch.zeros(4, 5, 1, 3)
    weight[3, 4, 0, 2] = 7.0  # block row 1, tap 2, channel block 2 of ceil(5 / 2) = 3
    packed = formats.BlockPacked.pack(weight, (2, 2))
    assert packed.row_offsets.tolist() == [0, 0, 1]
    assert packed.columns.tolist() == [2 * 3 + 2]
    assert packed.values[0].tolist() == [[0, 0], [7, 0]]
    assert packed.value_bytes("fp16") == 4 * 2
    assert packed.index_bytes == 4 * 4


def test_linear_layers_are_one_by_one_convolutions() -> None:
    weight = random_weight((6, 8), 0.5, 1)
    for packed in (formats.BlockPacked.pack(weight, (4, 4)), formats.CsrPacked.pack(weight)):
        assert torch.equal(packed.unpack()[:, :, 0, 0], weight)


def test_a_weight_that_breaks_the_groups_is_refused() -> None:
    with pytest.raises(PatternError, match="keeps 4 of a group of 4"):
        formats.GroupPacked.pack(torch.ones(2, 8, 1, 1), parse("nm:2:4"))
    with pytest.raises(PatternError, match="cannot divide 6"):
        formats.GroupPacked.pack(torch.ones(2, 6, 1, 1), parse("nm:2:4"))

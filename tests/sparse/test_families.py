"""What each pattern keeps, and that a weight is judged by its zeros alone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from csbench.core.pattern import parse
from csbench.errors import PatternError
from csbench.sparse.layout import as_matrix, shape_of, to_blocks, to_groups
from csbench.sparse.patterns import detect, for_spec, tightest

SPECS = [
    "dense", "unstructured@0.9", "block:4x4@0.5", "block:3x5@0.75", "block:32x32@0.5", "nm:2:4",
    "nm:1:8", "nm:3:3", "nm@75%", "ovw:4@0.75", "ovw:32@0.5", "shfl-bw:4@0.5", "shfl-bw:8@0.9",
    "cs:2", "cs:4", "cs:16", "cs:3:6", "cs:4:8", "cs:1", "cs@87.5%",
]  # fmt: skip


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pruned(text: str, *shape: int, seed: int = 0) -> Tensor:
    weight = gaussian(*shape, seed=seed)
    return weight * for_spec(parse(text)).mask(weight)


shapes = st.tuples(
    st.integers(1, 40), st.integers(1, 40) | st.sampled_from([16, 24, 32]),
    st.integers(1, 3), st.integers(1, 3),
)  # fmt: skip


@pytest.mark.parametrize("text", SPECS)
@settings(max_examples=20, deadline=None)
@given(shape=shapes, seed=st.integers(0, 99))
def test_what_is_masked_verifies_and_packs(text: str, shape: tuple[int, ...], seed: int) -> None:
    pattern = for_spec(parse(text).at(parse(text).own_sparsity or 0))
    weight = gaussian(*shape, seed=seed)
    if pattern.why_not(shape_of(weight)) is not None:
        with pytest.raises(PatternError, match="does not fit"):
            pattern.mask(weight)
        return
    mask = pattern.mask(weight)
    assert mask.dtype == torch.bool
    assert mask.shape == weight.shape
    weight = weight * mask
    verdict = pattern.verify(weight)
    assert verdict.ok, verdict.describe()
    packed = pattern.pack(weight)
    assert torch.equal(packed.unpack(), weight)
    assert packed.value_bytes("fp32") == 2 * packed.value_bytes("fp16")
    assert pattern.padding(shape_of(weight)) >= 0


def test_unstructured_keeps_the_largest() -> None:
    weight = gaussian(10, 7, 3, 3)
    mask = for_spec(parse("unstructured")).mask(weight, 0.8)
    assert int(mask.sum()) == round(0.2 * weight.numel())
    assert weight[mask].abs().min() > weight[~mask].abs().max()


def test_block_keeps_as_many_blocks_in_every_row_and_the_largest() -> None:
    weight = gaussian(10, 9, 3, 3)
    mask = for_spec(parse("block:4x4@0.75")).mask(weight)
    kept = to_blocks(mask, 4, 4).flatten(2).any(2)
    columns = 9 * 3
    assert kept.sum(1).tolist() == [math.floor(0.25 * columns + 0.5)] * 3
    norms = to_blocks(weight, 4, 4).flatten(2).norm(dim=2)
    for row in range(3):
        assert norms[row][kept[row]].min() > norms[row][~kept[row]].max()


def test_a_block_is_kept_whole() -> None:
    mask = for_spec(parse("block:4x4@0.5")).mask(gaussian(8, 8, 3, 3))
    filled = to_blocks(mask, 4, 4).flatten(2).float().mean(2)
    assert set(filled.flatten().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(("text", "n", "m", "span"), [
    ("nm:2:4", 2, 4, 4), ("cs:4", 1, 4, 16), ("cs:4:8", 1, 4, 8), ("nm:1:16", 1, 16, 16),
])  # fmt: skip
def test_groups_keep_exactly_their_number_and_the_largest(
    text: str, n: int, m: int, span: int
) -> None:
    weight = gaussian(6, 16, 3, 2)
    mask = for_spec(parse(text)).mask(weight)
    kept, groups = to_groups(mask, m, span), to_groups(weight.abs(), m, span)
    assert (kept.sum(3) == n).all()
    smallest_kept = groups.masked_fill(~kept, torch.inf).amin(3)
    largest_left = groups.masked_fill(kept, -torch.inf).amax(3)
    assert (smallest_kept > largest_left).all()


@pytest.mark.parametrize("text", ["ovw:8@0.75", "shfl-bw:8@0.75"])
def test_vector_wise_rows_share_columns_in_eights(text: str) -> None:
    matrix = as_matrix(for_spec(parse(text)).mask(gaussian(32, 16, 3, 3)))
    assert (matrix.sum(1) == 36).all()
    supports = [tuple(row) for row in matrix.tolist()]
    assert all(supports.count(row) % 8 == 0 for row in set(supports))


def test_a_linear_layer_is_a_one_by_one_convolution() -> None:
    linear = gaussian(32, 64)
    for text in ("nm:2:4", "cs:8", "block:8x8@0.5", "ovw:8@0.5"):
        pattern = for_spec(parse(text))
        mask = pattern.mask(linear)
        assert mask.shape == (32, 64)
        assert torch.equal(mask, pattern.mask(linear[:, :, None, None])[:, :, 0, 0])
        assert pattern.verify(linear * mask).ok


@pytest.mark.parametrize(
    ("made", "checked"),
    [
        *((text, text) for text in ("unstructured@0.75", "block:4x4@0.5", "nm:2:4", "cs:4")),
        *((text, text) for text in ("cs:4:8", "ovw:8@0.75", "shfl-bw:8@0.5")),
        ("cs:4", "cs"), ("nm:2:4", "nm"), ("block:4x4@0.5", "block:4x4"), ("ovw:8@0.5", "ovw:8"),
    ],
)  # fmt: skip
def test_a_stray_weight_is_found_where_it_is(made: str, checked: str) -> None:
    weight = pruned(made, 16, 16, 3, 3)
    at = (weight == 0).nonzero()[17].tolist()
    weight[tuple(at)] = 1e-3
    verdict = for_spec(parse(checked)).verify(weight)
    assert verdict.violations == 1
    assert verdict.first == (tuple(at),)
    assert str(at) in verdict.describe()


@pytest.mark.parametrize(
    "text", ["nm:2:4", "cs:4", "block:4x4@0.5", "ovw:8@0.75", "unstructured@0.5"]
)
def test_a_dense_weight_breaks_every_pattern(text: str) -> None:
    weight = gaussian(16, 16, 3, 3)
    verdict = for_spec(parse(text)).verify(weight)
    own = parse(text).own_sparsity
    assert own is not None
    assert verdict.violations == pytest.approx(own * weight.numel(), rel=0.01)
    assert len(verdict.first) == 5
    assert str(verdict.tightest) == "dense"


@pytest.mark.parametrize(
    ("text", "shape", "expected"),
    [
        ("cs:2", (64, 64, 3, 3), "cs:2"),
        ("cs:4", (64, 64, 3, 3), "cs:4"),
        ("cs:16", (64, 64, 1, 1), "cs:16"),
        ("cs:4:16", (64, 64, 1, 1), "cs:4:16"),
        ("cs:4:4", (64, 64, 1, 1), "nm:1:4"),
        ("nm:2:4", (64, 64, 3, 3), "nm:2:4"),
        ("nm:1:8", (64, 64, 1, 1), "nm:1:8"),
        ("nm:4:8", (64, 64, 1, 1), "nm:4:8"),
        ("block:32x32@0.5", (256, 256, 1, 1), "block:32x32@0.5"),
        ("block:16x32@0.75", (256, 256, 3, 3), "block:16x32@0.75"),
        ("ovw:32@0.75", (256, 64, 3, 3), "ovw:32@0.75"),
        ("ovw:8@0.5", (60, 64, 1, 1), "ovw:8@0.5"),
        ("shfl-bw:16@0.875", (128, 64, 3, 3), "ovw:16@0.875"),  # the same zeros
        ("unstructured@0.75", (64, 64, 1, 1), "unstructured@0.75"),
        ("dense", (64, 64, 1, 1), "dense"),
        ("cs:1", (64, 64, 1, 1), "dense"),
    ],
)  # fmt: skip
def test_the_tightest_pattern_is_the_one_that_was_applied(
    text: str, shape: tuple[int, ...], expected: str
) -> None:
    weight = pruned(text, *shape)
    assert str(tightest(weight)) == expected
    # A few zeros by chance, as in any trained network, change nothing.
    if expected not in ("dense", "unstructured@0.75"):
        kept = weight.nonzero()
        weight[tuple(kept[torch.randperm(len(kept))[: len(kept) // 500]].T)] = 0
        assert tightest(weight).family == parse(expected).family


def test_detection_needs_every_sparse_layer() -> None:
    layers = {str(i): pruned("cs:4", 32, 32, 3, 3, seed=i) for i in range(3)}
    layers["dense"] = gaussian(32, 32, 1, 1)
    assert str(detect(layers)) == "cs:4"
    layers["other"] = pruned("unstructured@0.75", 32, 32, 3, 3)
    assert str(detect(layers)) == "unstructured@0.75"


def test_detection_finds_the_sparsity_that_all_layers_round() -> None:
    # Two block columns keep one (50 %), eighteen keep five (72 %): both come from 75 %.
    layers = {
        str(shape): pruned("block:32x32@0.75", *shape)
        for shape in [(64, 64, 1, 1), (64, 64, 3, 3), (256, 512, 1, 1)]
    }
    assert str(detect(layers)) == "block:32x32@0.75"


def test_layers_of_several_unstructured_sparsities_have_no_common_one() -> None:
    layers = {text: pruned(text, 32, 32, 3, 3) for text in ("unstructured@0.3", "unstructured@0.9")}
    assert str(detect(layers)) == "unstructured"


def test_groups_are_recovered_with_a_remainder_and_chance_zeros() -> None:
    weight = pruned("ovw:8@0.5", 21, 32, 1, 1)
    weight[3] = 0  # a dead channel
    weight[tuple(weight.nonzero()[5])] = 0
    pattern = for_spec(parse("ovw:8@0.5"))
    assert pattern.verify(weight).ok
    packed = pattern.pack(weight)
    assert torch.equal(packed.unpack(), weight)


def test_a_sparsity_is_asked_for_where_it_is_needed() -> None:
    with pytest.raises(PatternError, match=r"needs a sparsity; type for example block:8x8@75%"):
        for_spec(parse("block:8x8")).mask(gaussian(16, 16, 1, 1))
    with pytest.raises(PatternError, match=r"cannot give 60 %"):
        for_spec(parse("cs")).mask(gaussian(16, 16, 1, 1), 0.6)
    with pytest.raises(PatternError, match="4 does not divide 6 input channels"):
        for_spec(parse("cs:4")).mask(gaussian(16, 6, 1, 1))


def test_padding_is_counted() -> None:
    assert for_spec(parse("block:32x32@0.5")).padding((48, 33, 1, 1)) == 64 * 64 - 48 * 33
    assert for_spec(parse("ovw:32@0.5")).padding((48, 10, 1, 1)) == 16 * 10
    assert for_spec(parse("cs:4")).padding((48, 16, 3, 3)) == 0

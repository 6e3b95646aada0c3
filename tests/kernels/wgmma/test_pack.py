"""Packed weights decode, as tensor cores read them, to the weights; every layer has a tile."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from csbench.core.pattern import parse
from csbench.kernels.wgmma.pack import pack, pack_stem, pack_stem_pool
from csbench.kernels.wgmma.tile import Kind, candidates
from csbench.sparse.patterns import for_spec
from tests.kernels.wgmma.meaning import decode


def pruned(weight: Tensor, pattern: str) -> Tensor:
    """The weight under a pattern that it can carry."""
    return weight * for_spec(parse(pattern)).mask(weight)


@pytest.mark.parametrize("pattern", ["nm:2:4", "nm:1:2", "nm:1:4", "nm:2:8", "nm:1:16"])
def test_packed_sparse_weights_decode(pattern: str) -> None:
    weight = pruned(torch.randn(72, 80, 3, 1), pattern)
    packed = pack(weight, sparse=True, planes=1, dtype=torch.float16)
    dense = pack(weight, sparse=False, planes=1, dtype=torch.float16)
    assert torch.equal(decode(packed.data, True), decode(dense.data, False))
    rows = decode(dense.data, False).transpose(1, 2).reshape(128, 3, 128)
    rows = rows * packed.unscale.double()[:, None, None]
    got = rows[:72, :, :80].permute(0, 2, 1)[..., None]
    assert torch.allclose(got, weight.double(), rtol=2**-11, atol=0)
    assert rows[72:].abs().sum() == 0


def test_two_planes_carry_float32() -> None:
    weight = torch.randn(64, 64, 1, 1)
    packed = pack(weight, sparse=False, planes=2, dtype=torch.float16)
    low = packed.data[..., 8192:]
    total = (decode(packed.data, False) + decode(low, False))[0, 0] * packed.unscale.double()[
        :, None
    ]
    expected = weight[:, :, 0, 0].double()
    assert (total - expected).abs().max() <= 2.0**-22 * expected.abs().max()


def test_stem_fragments_hold_every_weight_once() -> None:
    weight = torch.randn(64, 3, 7, 7)
    packed = pack_stem(weight, 2, planes=1, dtype=torch.float16)
    assert packed.data.shape == (1, 4, 11, 1, 8, 4, 2, 2, 2)
    # [block, m16, step, plane, row, t, +8 in k, +8 in row, pair] -> rows x k
    rows = packed.data.double().permute(0, 1, 7, 4, 2, 6, 5, 8, 3).reshape(64, 176)
    rows = rows * packed.unscale.double()[:, None]
    runs = rows[:, :168].reshape(64, 7, 24)[..., :21].reshape(64, 7, 7, 3).permute(0, 3, 1, 2)
    assert torch.allclose(runs, weight.double(), rtol=2**-11, atol=0)


def test_core_matrices_hold_every_weight_once() -> None:
    weight = torch.randn(64, 3, 7, 7)
    packed = pack_stem_pool(weight, planes=1, dtype=torch.float16)
    assert packed.data.shape == (1, 1, 14, 2, 8, 8, 8)
    # [block, plane, step, +8 in k, m8, row, k] -> rows x kernel row x column x channel
    rows = packed.data.double().permute(0, 1, 4, 5, 2, 3, 6).reshape(64, 7, 8, 4)
    rows = rows * packed.unscale.double()[:, None, None, None]
    taps = rows[:, :, :7, :3].permute(0, 3, 1, 2)
    assert torch.allclose(taps, weight.double(), rtol=2**-11, atol=0)
    assert rows[:, :, 7].abs().sum() == 0
    assert rows[..., 3].abs().sum() == 0


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("planes", [1, 2])
def test_every_layer_has_a_tile(sparse: bool, planes: int) -> None:
    for blocks in (1, 2, 3, 4, 16):
        for tile in candidates(Kind(sparse, planes), blocks, 9).values():
            assert tile.shared(Kind(sparse, planes)) * tile.blocks <= 232448
        assert candidates(Kind(sparse, planes), blocks, 9)

"""What is 2:4 is recognised, and the two kept of four are found."""

from __future__ import annotations

import itertools

import pytest
import torch

from csbench.core.pattern import parse
from csbench.kernels import two_of_four
from csbench.sparse.patterns import for_spec


@pytest.mark.parametrize("pattern", ["nm:2:4", "nm:1:2", "nm:1:4", "nm:2:8", "nm:1:16", "nm:2:16"])
def test_patterns_of_neighbours_fit(pattern: str) -> None:
    weight = torch.randn(32, 80, 3, 1)
    kept = weight * for_spec(parse(pattern)).mask(weight)
    assert two_of_four.fits(kept)
    assert two_of_four.fits(kept, 1, 2) == (pattern not in ("nm:2:4", "nm:2:8", "nm:2:16"))


@pytest.mark.parametrize("pattern", ["nm:4:8", "nm:3:4", "cs:2", "unstructured@50%"])
def test_others_do_not(pattern: str) -> None:
    weight = torch.randn(32, 64, 3, 3)
    assert not two_of_four.fits(weight * for_spec(parse(pattern)).mask(weight))


def test_channels_that_four_does_not_divide() -> None:
    weight = torch.zeros(1, 6, 1, 1)
    weight[0, 4:] = 1
    assert two_of_four.fits(weight)
    weight[0, :3] = 1
    assert not two_of_four.fits(weight)


def test_positions_hold_what_is_kept_in_ascending_order() -> None:
    for kept in (k for n in range(3) for k in itertools.combinations(range(4), n)):
        four = torch.zeros(4)
        four[list(kept)] = 5.0
        low, high = two_of_four.positions(four).tolist()
        assert 0 <= low < high <= 3
        assert set(kept) <= {low, high}

"""The kernels' own source, on a CPU, against float64: every shape, precision and width."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from csbench.backends.base import TORCH_DTYPE
from csbench.backends.csr.layer import shape_of
from csbench.kernels.csr import candidates, direct, launch
from csbench.kernels.csr.columns import Weight
from csbench.kernels.csr.direct import Cut, Direct
from csbench.kernels.csr.space import Space
from csbench.kernels.csr.staged import Staged, Tile
from tests.backends.csr.layers import AWKWARD, TOLERANCE, case, error, layer
from tests.kernels.host import host

pytestmark = host.needs_gxx


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    host.install(monkeypatch)


def few(weight: Weight, space: Space, tile: Tile, channels: int) -> Staged:
    """So few channels in a chunk that several follow one another."""
    layer = Staged(weight, space, tile)
    layer._guess = lambda: min(channels, space.shape.channels)  # type: ignore[method-assign]
    return layer


# Precision and width together, so that each kernel is compiled a few times only.
WAYS = [("fp32", 4), ("fp16", 2), ("bf16", 1)]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("dtype", "v"), WAYS)
@pytest.mark.parametrize("shape", AWKWARD)
def test_staged_equals_the_reference(shape: str, dtype: str, v: int, batch: int) -> None:
    conv, given = layer(**AWKWARD[shape]), case(dtype, batch)
    weight, space = (
        Weight(conv.weight.to(TORCH_DTYPE[dtype]).float()),
        Space.of(shape_of(conv, given)),
    )
    tile = Tile(v, 2, 3, 4)
    for variant in (Staged(weight, space, tile), few(weight, space, tile, 5)):
        assert error(variant, conv, given) < TOLERANCE[dtype]


@pytest.mark.parametrize("splits", [1, 4])
@pytest.mark.parametrize(("dtype", "v"), WAYS)
@pytest.mark.parametrize("shape", AWKWARD)
def test_direct_equals_the_reference(shape: str, dtype: str, v: int, splits: int) -> None:
    conv, given = layer(**AWKWARD[shape]), case(dtype)
    weight = Weight(conv.weight.to(TORCH_DTYPE[dtype]).float())
    variant = Direct(weight, shape_of(conv, given), Cut(v, 2, splits))
    assert error(variant, conv, given) < TOLERANCE[dtype]


def test_lists_longer_than_a_page() -> None:
    conv = layer(300, 8, (1, 1), (4, 4), density=0.9)
    for splits in (1, 2):
        variant = Direct(Weight(conv.weight), shape_of(conv, case()), Cut(1, 2, splits))
        assert variant.packed.lists.runs.diff().max() > 2 * direct.PAGE
        assert error(variant, conv, case()) < TOLERANCE["fp32"]


@pytest.mark.parametrize("channel", [0, 5, 15])  # what fills a list up must not read the first
def test_nan_reaches_its_own_outputs_alone(channel: int) -> None:
    conv = layer(16, 16, (1, 1), (6, 6), density=0.3, activation="relu")
    x = torch.randn(1, 16, 6, 6)
    x[0, channel, 2, 3] = torch.nan
    for variant in variants(conv):
        y = torch.empty(1, 16, 6, 6)
        launch.launch(variant, x, conv.bias, None, y, 1)
        expected = torch.zeros_like(y, dtype=torch.bool)
        expected[0, :, 2, 3] = conv.weight[:, channel, 0, 0] != 0
        assert torch.equal(y.isnan(), expected)


def variants(conv) -> Iterator[launch.Variant]:
    weight, shape = Weight(conv.weight), shape_of(conv, case(batch=1))
    yield Staged(weight, Space.of(shape), Tile(1, 2, 3, 4))
    yield Direct(weight, shape, Cut(1, 2, 1))
    yield Direct(weight, shape, Cut(1, 2, 4))


def test_a_tap_per_bit_is_all_that_direct_takes() -> None:
    shape = shape_of(layer(3, 4, (7, 7), (19, 17)), case())
    assert "49" in (direct.why_not(shape) or "")
    assert not list(candidates.cuts(Weight(torch.ones(4, 3, 7, 7)), shape, 1))
    assert candidates.smallest(Weight(torch.ones(4, 3, 7, 7)), Space.of(shape)).fits
    wide = shape._replace(kernel=(1, 1), channels=1 << 14, size=(64, 64))
    assert str(direct.MAX_OFFSET) in (direct.why_not(wide) or "")

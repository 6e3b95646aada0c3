"""Block sparsity on a CPU against the float64 reference."""

from __future__ import annotations

import pytest
import torch

from csbench.backends.block import cpu as cpu_block
from csbench.core.pattern import parse
from csbench.kernels import build
from tests.backends.cases import case, conv
from tests.backends.native import error, layers, pruned

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="no C++ compiler")


@pytest.mark.parametrize(
    ("pattern", "cin", "cout"),
    [
        ("block:32x32@50%", 64, 96), ("block:32x32@0%", 64, 33), ("block:4x8@75%", 40, 50),
        ("block:3x5@50%", 17, 19), ("block:1x16@50%", 32, 7), ("block:12x4@30%", 20, 40),
    ],
)  # fmt: skip
def test_blocks_are_right(pattern: str, cin: int, cout: int) -> None:
    for layer, given in layers(parse(pattern), cin, cout):
        run = cpu_block.lower(layer, given)
        assert error(run, layer, given.batch) < 1e-5, layer.describe()


def test_an_empty_block_row_gives_bias_and_residual() -> None:
    weight = torch.randn(64, 64, 3, 3)
    weight[:32] = 0
    layer = conv(
        weight=weight, bias=torch.randn(64), residual=True, input_size=(64, 7, 7),
        output_size=(64, 7, 7), pattern=parse("block:32x32"),
    )  # fmt: skip
    assert error(cpu_block.lower(layer, case(batch=3)), layer, 3) < 1e-5


def test_channels_last_input_is_read_rightly() -> None:
    layer = pruned(
        conv(
            weight=torch.randn(64, 64, 3, 3), bias=torch.randn(64), residual=True,
            input_size=(64, 9, 8), output_size=(64, 9, 8),
        ),
        parse("block:32x32@50%"),
    )  # fmt: skip
    run = cpu_block.lower(layer, case(batch=2))
    assert error(run, layer, 2, memory_format=torch.channels_last) < 1e-5


def test_pruned_blocks_are_not_stored() -> None:
    layer = conv(
        weight=torch.randn(128, 128, 1, 1), bias=torch.zeros(128), input_size=(128, 7, 7),
        output_size=(128, 7, 7), stride=(1, 1), padding=(0, 0),
    )  # fmt: skip
    dense, quarter = (
        cpu_block.lower(pruned(layer, parse(f"block:32x32@{s}")), case()).weight_bytes
        for s in ("0%", "75%")
    )
    assert 3.5 < dense / quarter < 4

"""The stem and pooling before block-sparse layers against float64, by wgmma and in a network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from csbench.backends.base import TORCH_DTYPE
from csbench.backends.block import stem
from csbench.backends.block.original import BlockOriginal
from csbench.backends.dense.cudnn import Cudnn
from csbench.core.pattern import parse
from csbench.graph import attach, reference, trace
from csbench.graph.program import Program
from tests.gpu.shapes import TOLERANCE, case, poisoned_memory

pytestmark = pytest.mark.gpu

SIZE = (3, 45, 61)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 7, stride=2, padding=3)
        self.relu, self.pool = nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        self.left, self.right = nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(64, 64, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.relu(self.stem(x)))
        return self.relu(self.left(x)) + self.right(x)


def program() -> Program:
    torch.manual_seed(0)
    patterns = {name: parse("block:32x32@50%") for name in ("left", "right")}
    return attach(trace(Net().eval(), SIZE, "net"), patterns)


def needs_wgmma() -> None:
    if torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("wgmma needs a Hopper GPU")


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_stem_equals_the_reference(dtype: str, batch: int) -> None:
    needs_wgmma()
    net = program()
    start = stem._start(net, case(dtype, batch))
    x = torch.randn(batch, *SIZE, device="cuda").to(TORCH_DTYPE[dtype])
    with poisoned_memory():
        y = start.run(x)
    only = Program(net.model, net.input_size, net.steps[:2], net.steps[1].output)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert y.dtype == TORCH_DTYPE[dtype]
    assert reference.relative_error(y, reference.run(only, x)) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("chosen", ["dense", "wgmma"])
def test_network_equals_the_reference(
    dtype: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if chosen == "wgmma":
        needs_wgmma()
    net, given = program(), case(dtype, 3)
    dense = Cudnn().lower(net.convolutions[0], given)
    made = stem._start(net, given) if chosen == "wgmma" else None
    monkeypatch.setattr(stem, "faster", lambda *_: made)
    lowered = BlockOriginal().lower_network(net, given)
    assert lowered is not None
    x = torch.randn(3, *SIZE, device="cuda").to(TORCH_DTYPE[dtype])
    assert reference.relative_error(lowered(x), reference.run(net, x)) < TOLERANCE[dtype]
    expected = dense.algorithm if made is None else made.layer.algorithm
    assert lowered.layers[0].algorithm == expected
    assert [layer.ran for layer in lowered.layers] == ["dense", "sparse", "sparse"]

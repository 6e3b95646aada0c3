"""The stem before block-sparse layers, without a GPU: what it takes, and planes to floats."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from csbench.backends.block import stem
from csbench.graph import trace
from csbench.kernels.block.planes import from_planes
from tests.gpu.shapes import case
from tests.kernels.host import host


class Net(nn.Module):
    def __init__(self, channels: int = 64, window: int = 3, activation: type = nn.ReLU) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 7, stride=2, padding=3)
        self.activation, self.pool = activation(), nn.MaxPool2d(window, 2, window // 2)
        self.next = nn.Conv2d(channels, 32, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.next(self.pool(self.activation(self.conv(x))))


class ReadTwice(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.activation(self.conv(x))
        return self.next(self.pool(y) + F.avg_pool2d(y, 2))


def fits(net: nn.Module, monkeypatch: pytest.MonkeyPatch, capability: int = 9) -> bool:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (capability, 0))
    return stem._fits(trace(net.eval(), (3, 64, 64), "net"), case())


def test_takes_the_first_layers_of_a_resnet(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fits(Net(), monkeypatch)


@pytest.mark.parametrize(
    "net",
    [Net(channels=32), Net(window=5), Net(activation=nn.ReLU6), ReadTwice(), nn.Conv2d(3, 64, 7)],
    ids=["padded channels", "another pooling", "relu6", "read twice", "no pooling"],
)
def test_leaves_others_to_the_dense_baseline(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not fits(net, monkeypatch)


def test_needs_wgmma(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not fits(Net(), monkeypatch, capability=8)


@host.needs_gxx
def test_planes_become_channels_last_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    host.install(monkeypatch)
    scale = 8.0
    x = torch.randn(2, 5, 3, 128, generator=torch.Generator().manual_seed(1))
    high = (x * scale).half()
    low = (x * scale - high.float()).half()
    packed = torch.stack([high, low]).unflatten(4, (2, 64)).permute(1, 2, 3, 4, 0, 5).flatten(3)
    y = from_planes(packed.contiguous(), scale)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert y.shape == (2, 128, 5, 3)
    assert (y.permute(0, 2, 3, 1) - x).abs().max() < 2**-20

"""The conformance kit on the block kernels' own source, on a CPU (tests/kernels/host)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from csbench.backends import conformance
from csbench.backends.base import LoweredConv, LoweredNetwork
from csbench.backends.block import measured, network
from csbench.backends.block.cutlass_layer import CutlassLayer
from csbench.backends.block.gpu import BlockLayer
from csbench.backends.block.measured import MeasuredLayer
from csbench.core.case import Case
from csbench.core.pattern import parse
from csbench.graph import attach, reference, trace
from csbench.graph.program import Conv, Program
from tests.gpu.shapes import TOLERANCE
from tests.gpu.shapes import case as given
from tests.kernels.host import host

pytestmark = host.needs_gxx


class OnHost:
    """A block backend whose kernels run on the CPU."""

    name = "on-host"
    patterns = frozenset({"block"})
    devices = frozenset({"cpu"})
    dtypes = frozenset({"fp32", "fp16"})

    def __init__(self, kernel: type[MeasuredLayer]) -> None:
        self.kernel = kernel

    def missing(self, device: str) -> str | None:
        return None

    def why_not(self, conv: Conv, case: Case) -> str | None:
        return self.kernel.why_not(conv, case)

    def lower(self, conv: Conv, case: Case) -> LoweredConv:
        return measured.lower(conv, case, self.kernel)

    def lower_network(self, program: Program, case: Case) -> LoweredNetwork:
        return network.lower_network(program, case, self.kernel)


def some_tile(layer: MeasuredLayer, conv: Conv, case: Case, *_: object) -> list[str]:
    """Small tiles, and for 3x3 layers those of clusters where there are any."""
    names = sorted(layer.tiles, key=lambda n: layer.tiles[n].threads * layer.tiles[n].pixels)
    clusters = [name for name in names if layer.tiles[name].cluster > 1]
    return clusters if clusters and conv.weight.shape[2] == 3 else names


def dense(conv: Conv, case: Case) -> LoweredConv:
    """Stands for cuDNN."""

    def run(x: Tensor, residual: Tensor | None = None) -> Tensor:
        shape = (conv.stride, conv.padding, conv.dilation, conv.groups)
        y = F.conv2d(x.float(), conv.weight, conv.bias, *shape)
        y = y if residual is None else y + residual
        return (F.relu(y) if conv.activation == "relu" else y).to(x.dtype)

    return LoweredConv(run)


def once(run: Any, chosen: dict[Any, str], *_: object) -> None:
    """Stands for the search inside the network."""
    run()


@pytest.mark.parametrize(
    ("kernel", "dtype"),
    [
        (BlockLayer, "fp16"),
        pytest.param(CutlassLayer, "fp32", marks=host.needs_cutlass),
    ],
)
def test_the_kernels_conform(
    kernel: type[MeasuredLayer], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.install(monkeypatch)
    monkeypatch.setattr(MeasuredLayer, "ranked", some_tile)
    monkeypatch.setattr(network, "Cudnn", lambda: SimpleNamespace(lower=dense))
    monkeypatch.setattr(network, "normal", lambda size, case, layout: torch.randn(1, *size))
    monkeypatch.setattr(network.search, "in_context", once)
    report = conformance.run(OnHost(kernel), device="cpu", dtype=dtype, pattern="block")
    assert [o for o in report.outcomes if o.status == "failed"] == []
    assert [o.check for o in report.outcomes if o.status == "skipped"] == ["stream"]


def test_what_others_make_is_laid_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers read the stem's result; neither has to rearrange it."""
    host.install(monkeypatch)
    stem = torch.nn.Conv2d(3, 32, 3, padding=1)
    left, right = (torch.nn.Conv2d(32, 32, 1) for _ in range(2))

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.left, self.right = stem, left, right

        def forward(self, x: Tensor) -> Tensor:
            y = F.relu(self.stem(x))
            return F.relu(self.left(y)) + self.right(y)

    seen = []
    launch = BlockLayer.ready

    def ready(self: BlockLayer, x: Tensor) -> Tensor:
        seen.append(x.is_contiguous(memory_format=torch.channels_last))
        return launch(self, x)

    monkeypatch.setattr(BlockLayer, "ready", ready)
    monkeypatch.setattr(MeasuredLayer, "ranked", some_tile)
    monkeypatch.setattr(network, "Cudnn", lambda: SimpleNamespace(lower=dense))
    monkeypatch.setattr(network, "normal", lambda size, case, layout: torch.randn(1, *size))
    monkeypatch.setattr(network.search, "in_context", once)
    patterns = {name: parse("block:32x32@50%") for name in ("left", "right")}
    program = attach(trace(Net().eval(), (3, 8, 8), "net"), patterns)
    lowered = network.lower_network(program, given(batch=1, device="cpu"), BlockLayer)
    x = torch.randn(1, 3, 8, 8)
    assert reference.relative_error(lowered(x), reference.run(program, x)) < TOLERANCE["fp32"]
    assert seen and all(seen)
    assert [layer.ran for layer in lowered.layers] == ["dense", "sparse", "sparse"]

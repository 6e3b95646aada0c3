"""The dense CPU baseline: right, fused, and never writing where somebody still reads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from csbench.backends.dense.onednn import OneDnn
from csbench.backends.poison import poisoned
from csbench.graph import reference, trace
from tests.backends.cases import case, conv

backend = OneDnn()
pytestmark = pytest.mark.skipif(backend.missing("cpu") is not None, reason="no oneDNN")


class Net(nn.Module):
    """A residual whose skip is read again later, and one that nobody else reads."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 1)
        self.skip, self.c = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.a(x).relu()
        second = (self.b(first) + first).relu()  # first is read again below
        third = (self.c(second) + self.skip(first)).relu()  # the skip is not
        out: Tensor = (third + first).mean((2, 3))
        return out


@pytest.mark.parametrize("activation", ["none", "relu", "relu6"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_a_layer_is_right_and_keeps_its_inputs(
    activation: str, residual: bool, memory: torch.memory_format
) -> None:
    layer = conv(activation=activation, residual=residual, stride=(2, 1))
    x = torch.randn(3, *layer.input_size).contiguous(memory_format=memory)
    added = torch.randn(3, *layer.output_size).contiguous(memory_format=memory)
    arguments = (x, added) if residual else (x,)
    copies = [t.clone() for t in arguments]
    with poisoned():
        out = backend.lower(layer, case(batch=3))(*arguments)
    assert reference.relative_error(out, reference.convolution(layer, *arguments)) < 1e-5
    assert all(torch.equal(a, b) for a, b in zip(arguments, copies, strict=True))


@pytest.mark.parametrize("batch", [1, 3])
def test_a_network_adds_in_place_only_where_nobody_reads_again(batch: int) -> None:
    program = trace(Net().eval(), (3, 9, 8), "net")
    network = backend.lower_network(program, case(batch=batch, input=(3, 9, 8)))
    assert [layer.ran for layer in network.layers] == ["dense"] * 4
    for memory in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(batch, 3, 9, 8).contiguous(memory_format=memory)
        before = x.clone()
        out = network(x)
        assert reference.relative_error(out, reference.run(program, before)) < 1e-5
        assert torch.equal(x, before)


def test_precisions_that_the_cpu_lacks_are_refused_by_name() -> None:
    assert "onednn runs" in (backend.why_not(conv(), case(dtype="tf32")) or "")
    assert backend.why_not(conv(), case()) is None
    assert "cudnn" in (backend.missing("cuda") or "")

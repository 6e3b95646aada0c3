"""Whole networks on the gather kernels, on a CPU: what runs where, and is right."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from csbench.backends.base import TORCH_DTYPE
from csbench.backends.vector import network
from csbench.backends.vector.layer import shape_of
from csbench.core.case import Case
from csbench.core.pattern import parse
from csbench.graph import reference, trace
from csbench.graph.attach import attach
from csbench.graph.program import Program
from csbench.kernels import search
from csbench.kernels.gather import io
from csbench.kernels.gather.layout import Activation, Unfolding
from csbench.sparse.network import sparsify_state
from tests.kernels.host import host
from tests.kernels.wgmma import meaning

pytestmark = host.needs_gxx


@pytest.fixture(autouse=True)
def _on_the_host(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    meaning.install(monkeypatch)  # of the stem
    host.install(monkeypatch, processors=2)
    # Whatever compiles least: one warp a block.
    monkeypatch.setattr(
        search, "ranking",
        lambda runs, *_: sorted(runs, key=lambda name: ("32x64" not in name, name)),
    )  # fmt: skip
    monkeypatch.setattr(search, "in_context", lambda *_: None)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


class Small(nn.Module):
    """A first layer of five channels that two others read, each in its own way; residuals, a
    depthwise layer, poolings, a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(5, 32, 3, stride=2, padding=1)
        self.inner = nn.Conv2d(32, 32, 3, padding=1)
        self.other = nn.Conv2d(32, 32, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.wide = nn.Conv2d(32, 64, 1)
        self.pool, self.mean = nn.MaxPool2d(3, 2, 1), nn.AdaptiveAvgPool2d(1)
        self.last = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        inner = self.pool(F.relu(x + self.inner(x)))
        x = F.relu6(self.depthwise(F.relu(inner + self.other(x))))
        x = torch.sigmoid(self.wide(x))
        return self.last(torch.flatten(self.mean(x), 1))


class Stem(nn.Module):
    """An image's first layer with the pooling after it, or without; torch's values read twice."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 32, 7, stride=2, padding=3), pool
        self.inner, self.other = nn.Conv2d(32, 32, 1), nn.Conv2d(32, 32, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.pool(F.relu(self.conv(x))))
        return torch.tanh(self.inner(x)) * torch.tanh(self.other(x))


def small(model: nn.Module | None = None, image: tuple[int, int, int] = (5, 10, 14)) -> Program:
    torch.manual_seed(0)
    model = (model or Small()).eval()
    state, plan = sparsify_state(model.state_dict(), parse("ovw:32@50%"))
    model.load_state_dict(state)
    carried = {name: spec for name, spec in plan.items() if not isinstance(spec, str)}
    return attach(trace(model, image, "small"), carried)


def case(batch: int, dtype: str = "fp32") -> Case:
    return Case(
        task="infer", model="small", pattern="ovw", sparsity=0.5, backend="ovw", baseline="cudnn",
        device="cpu", dtype=dtype, batch=batch,
    )  # fmt: skip


@pytest.mark.parametrize("batch", [2, 9])
def test_a_network_runs_sparse_where_it_can(batch: int) -> None:
    program = small()
    lowered = network.lower_network(program, case(batch))
    ran = {report.name: (report.ran, report.reason) for report in lowered.layers}
    assert ran == {
        "first": ("sparse", None), "inner": ("sparse", None), "other": ("sparse", None),
        "wide": ("sparse", None),
        "depthwise": ("dense", "a depthwise layer"), "last": ("dense", "kept dense"),
    }  # fmt: skip
    x = torch.randn(batch, 5, 10, 14)
    assert reference.relative_error(lowered(x), reference.run(program, x)) < 2e-6


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_the_first_reader_of_a_layer_finds_its_input_unfolded(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others, and a layer that reads what is packed, have a kernel of their own unfold it."""
    unfold, made = io.unfold, list[Unfolding]()

    def counted(x: Activation, wanted: Unfolding) -> Activation:
        made.append(wanted)
        return unfold(x, wanted)

    program = small()
    lowered = network.lower_network(program, case(2, dtype))
    monkeypatch.setattr(io, "unfold", counted)
    x = torch.randn(2, 5, 10, 14).to(TORCH_DTYPE[dtype])
    error = reference.relative_error(lowered(x), reference.run(program, x))
    assert error < {"fp32": 2e-6, "fp16": 1e-3}[dtype]
    of_layer = {c.name: shape_of(c, 2).unfolding for c in program.convolutions}
    assert of_layer["inner"] not in made
    assert made == [of_layer["first"], of_layer["other"]]


@pytest.mark.parametrize("pool", [nn.MaxPool2d(3, 2, 1), nn.Identity()], ids=["pooled", "alone"])
def test_an_image_meets_the_stem_kernel_first(pool: nn.Module) -> None:
    program = small(Stem(pool), (3, 20, 18))
    lowered = network.lower_network(program, case(2))
    first, *others = lowered.layers
    assert (first.name, first.ran, first.reason) == ("conv", "dense", "the first layer")
    assert {(layer.name, layer.ran) for layer in others} == {
        ("inner", "sparse"), ("other", "sparse"),
    }  # fmt: skip
    x = torch.randn(2, 3, 20, 18)
    assert reference.relative_error(lowered(x), reference.run(program, x)) < 2e-6


def test_the_dense_twin_keeps_every_column() -> None:
    program = small()
    sparse = network.lower_network(program, case(2))
    dense = network.lower_network(program, case(2), sparse=False)
    assert {report.ran for report in dense.layers} == {"dense"}
    bytes_of = [{r.name: r.bytes for r in n.layers} for n in (sparse, dense)]
    assert bytes_of[0]["inner"] < 0.7 * bytes_of[1]["inner"]
    x = torch.randn(2, 5, 10, 14)
    assert reference.relative_error(dense(x), reference.run(program, x)) < 2e-6


def test_weights_that_break_their_pattern_run_dense_and_say_so() -> None:
    program = small()
    conv = next(c for c in program.convolutions if c.name == "inner")
    conv.weight[3, 4:9] = 1.0
    lowered = network.lower_network(program, case(2))
    report = next(r for r in lowered.layers if r.name == "inner")
    assert report.ran == "dense"
    assert report.reason is not None
    assert "ovw:32" in report.reason

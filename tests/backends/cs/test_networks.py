"""Networks and layers on both sets of kernels, each kernel replaced by what it means: a CPU shows
that channels, values, scales and packed weights find each other."""

from __future__ import annotations

import dataclasses
import types
from typing import Any

import pytest
import torch
from torch import nn

from csbench.backends.base import TORCH_DTYPE
from csbench.backends.cs import (
    gpu,
    latency,
    latency_network,
    throughput,
    throughput_network,
)
from csbench.core.pattern import parse
from csbench.graph import reference
from csbench.graph.program import Activation, Conv, Program
from csbench.kernels import search
from csbench.kernels.search import in_context  # before a fixture replaces it
from csbench.sparse.patterns import for_spec
from tests.backends.cases import conv
from tests.backends.cs import nets
from tests.kernels.latency import meaning as latency_meaning
from tests.kernels.wgmma import meaning as wgmma_meaning

KERNELS: dict[str, Any] = {"latency": latency, "throughput": throughput}
NETWORKS: dict[str, Any] = {"latency": latency_network, "throughput": throughput_network}
PATTERNS = ("cs:2", "cs:4", "cs:16", "cs:4:16", "nm:2:4", "nm:1:2", "nm:1:4", "nm:2:8", "")
VECTORS = ("ovw:32@75%", "shfl-bw:32@50%", "ovw:64@93.75%", "block:32x16@75%")
LIMIT = {"fp32": 1e-6, "tf32": 2e-3, "fp16": 2e-3, "bf16": 2e-2}


@pytest.fixture(autouse=True)
def _on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    latency_meaning.install(monkeypatch)
    wgmma_meaning.install(monkeypatch)


@pytest.fixture(params=KERNELS)
def kernels(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def error(program: Program, kernels: str, dtype: str, *, sparse: bool = True) -> float:
    """Of the network on these kernels, whose layers are reported in order."""
    lowered = NETWORKS[kernels].lower_network(program, nets.case(dtype, 2), sparse=sparse)
    assert [layer.name for layer in lowered.layers] == [c.name for c in program.convolutions]
    expected = {c.name for c in program.convolutions if c.pattern is not None and sparse}
    assert {layer.name for layer in lowered.layers if layer.ran == "sparse"} == expected
    x = torch.randn(2, *nets.IMAGE).to(TORCH_DTYPE[dtype])
    out = lowered(x)
    assert out.dtype == x.dtype
    return reference.relative_error(out, reference.run(program, x))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_networks_compute_the_same(kernels: str, pattern: str) -> None:
    program = nets.program(pattern)
    assert len([c for c in program.convolutions if c.pattern is not None]) > 3 or not pattern
    assert error(program, kernels, "fp32") < LIMIT["fp32"]


@pytest.mark.parametrize("pattern", VECTORS)
def test_networks_of_vectors_compute_the_same(pattern: str) -> None:
    program = nets.program(pattern)
    assert [c for c in program.convolutions if c.pattern is not None]
    assert error(program, "latency", "fp32") < LIMIT["fp32"]
    for dtype in ("tf32", "fp16", "bf16"):
        assert error(program, "latency", dtype) < LIMIT[dtype]
    assert error(program, "latency", "fp32", sparse=False) < LIMIT["fp32"]


@pytest.mark.parametrize("dtype", ["tf32", "fp16", "bf16"])
def test_in_every_precision(kernels: str, dtype: str) -> None:
    assert error(nets.program("cs:4"), kernels, dtype) < LIMIT[dtype]


def test_what_no_graph_holds_keeps_the_plans_of_its_layers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_: object) -> float:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(search, "in_context", in_context)
    monkeypatch.setattr(search, "remembered", lambda _, compute: compute())
    monkeypatch.setattr(search, "_network_ms", refused)
    assert error(nets.program("cs:4"), "latency", "fp32") < LIMIT["fp32"]


def test_the_dense_twin_multiplies_zeros(kernels: str) -> None:
    assert error(nets.program("cs:4"), kernels, "fp32", sparse=False) < LIMIT["fp32"]


def test_layers_of_different_patterns_read_their_own_orders() -> None:
    """The latency kernels order a value for each reader; those of wgmma, for most layers."""
    cs, nm = nets.program("cs:4"), nets.program("nm:1:8")
    taken = {c.name: c for c in nm.convolutions if c.name in ("middle", "hidden")}
    steps = tuple(
        dataclasses.replace(s, op=taken.get(s.op.name, s.op)) if isinstance(s.op, Conv) else s
        for s in cs.steps
    )
    program = dataclasses.replace(cs, steps=steps)
    assert error(program, "latency", "fp32") < LIMIT["fp32"]
    lowered = throughput_network.lower_network(program, nets.case("fp32", 2))
    assert lowered is not None
    reasons = {layer.reason for layer in lowered.layers if layer.name in taken}
    assert reasons == {"weights are not 2:4"}
    x = torch.randn(2, *nets.IMAGE)
    assert reference.relative_error(lowered(x), reference.run(program, x)) < LIMIT["fp32"]


def test_a_network_with_a_layer_for_neither_is_left_to_others(kernels: str) -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, groups=4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x))

    program = nets.program("", Grouped())
    assert NETWORKS[kernels].lower_network(program, nets.case("fp32", 2)) is None


def test_a_value_is_converted_once_for_all_that_read_it(
    kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four values that torch makes, one of them read twice; stems read the image itself."""
    module: Any = {"latency": latency_meaning.io, "throughput": wgmma_meaning.launch}[kernels]
    packed: list[torch.Size] = []
    pack = module.pack

    def counted(x: torch.Tensor, *rest: Any, **more: Any) -> Any:
        packed.append(x.shape)
        return pack(x, *rest, **more)

    monkeypatch.setattr(module, "pack", counted)
    lowered = NETWORKS[kernels].lower_network(nets.program(""), nets.case("fp32", 2))
    packed.clear()
    lowered(torch.randn(2, *nets.IMAGE))
    assert len(packed) == 4


def test_the_stem_takes_its_pooling_along() -> None:
    lowered = throughput_network.lower_network(nets.program(""), nets.case("fp16", 2))
    assert lowered is not None
    assert lowered.layers[0].algorithm == "wgmma, max pooling within"
    assert lowered.layers[0].reason == "the first layer"


class Ends(nn.Module):
    """What the latency kernels' stem and head take along, around a projected residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 40, 7, stride=2, padding=3)
        self.pool, self.mean = nn.MaxPool2d(3, 2, 1), nn.AdaptiveAvgPool2d(1)
        self.inner, self.outer = nn.Conv2d(40, 64, 3, padding=1), nn.Conv2d(64, 64, 1)
        self.project, self.last = nn.Conv2d(40, 64, 1), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(torch.relu(self.stem(x)))
        y = self.outer(torch.relu(self.inner(x)))
        y = torch.relu(y + self.project(x))
        return self.last(torch.flatten(self.mean(y), 1))


@pytest.mark.parametrize("dtype", LIMIT)
@pytest.mark.parametrize("pattern", ["", "cs:4"])
def test_few_launches_at_small_batch(pattern: str, dtype: str) -> None:
    """Poolings run within the stem and the head, and layers that read one value start together."""
    program = nets.program(pattern, Ends())
    assert error(program, "latency", dtype) < LIMIT[dtype]
    lowered = latency_network.lower_network(program, nets.case(dtype, 2))
    assert lowered is not None
    ran = {layer.name: str(layer.algorithm) for layer in lowered.layers}
    assert ran["stem"] == "latency stem, max pooling within"
    assert ran["last"] == "latency head, mean within"
    assert ran["inner"].endswith("in one launch with project")
    assert ran["project"].endswith("in one launch with inner")
    assert "launch" not in ran["outer"]


def layer(pattern: str, activation: Activation, size: float) -> tuple[Conv, list[torch.Tensor]]:
    weight = torch.randn(40, 48, 3, 3) / 20
    weight = weight * for_spec(parse(pattern)).mask(weight) if pattern else weight
    given = conv(
        weight=weight, bias=torch.randn(40) * size, pattern=parse(pattern) if pattern else None,
        activation=activation, residual=True, input_size=(48, 7, 5), output_size=(40, 7, 5),
    )  # fmt: skip
    return given, [torch.randn(2, 48, 7, 5) * size, torch.randn(2, 40, 7, 5) * size]


@pytest.mark.parametrize("size", [1e-2, 1.0, 1e3])
@pytest.mark.parametrize("pattern", ["", "cs:2", "cs:8", "nm:2:4", "nm:1:8"])
def test_a_layer_by_itself(kernels: str, pattern: str, size: float) -> None:
    given, inputs = layer(pattern, "relu", size)
    lowered = KERNELS[kernels].lower(given, nets.case("fp32", 2))
    expected = reference.convolution(given, *inputs)
    for memory in (torch.contiguous_format, torch.channels_last):
        out = lowered(*(x.contiguous(memory_format=memory) for x in inputs))
        assert reference.relative_error(out, expected) < LIMIT["fp32"]


def test_a_network_that_keeps_every_weight_is_their_own_dense_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refuses = types.SimpleNamespace(
        why_not=lambda conv, case: "keeps more", lower_network=throughput_network.lower_network
    )
    monkeypatch.setattr(gpu, "_ready", lambda case: {"throughput": refuses})
    whole = gpu.lower_network(nets.program("cs:1"), nets.case("fp32", 2))
    assert whole is not None and {layer.ran for layer in whole.layers} == {"dense"}
    assert gpu.lower_network(nets.program("cs:4"), nets.case("fp32", 2)) is None

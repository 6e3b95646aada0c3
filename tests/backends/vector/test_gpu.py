"""Which kernels take a layer or a network of vectors."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from msgspec.structs import replace

from csbench.backends.base import TORCH_DTYPE
from csbench.backends.conformance.network import INPUT, small_program
from csbench.backends.cs import latency, latency_network
from csbench.backends.vector import gather, gpu, network
from csbench.core.case import Case
from csbench.core.pattern import parse
from csbench.graph import reference
from csbench.graph.program import Program
from tests.backends.cases import case
from tests.backends.cs import nets
from tests.kernels.latency import meaning


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was asked for, instead of doing it: of networks where, and whether sparse."""
    asked: list[Any] = []

    class Lowering:
        def __init__(self, program: Program, case: Case, sparse: bool | None = None) -> None:
            if sparse is None:  # the latency kernels run what a program says
                found = any(conv.pattern is not None for conv in program.convolutions)
                asked.append(("latency", found))
            else:
                asked.append(("gather", sparse))

        def network(self) -> str:
            return "a network"

    monkeypatch.setattr(latency_network, "_Lowering", Lowering)
    monkeypatch.setattr(network, "_Lowering", Lowering)
    monkeypatch.setattr(latency, "lower", lambda *_: asked.append("latency"))
    monkeypatch.setattr(gather, "lower", lambda *_: asked.append("gather"))
    return asked


@pytest.mark.parametrize(
    "dtype, batch, expected",
    [("fp16", 7, "latency"), ("fp16", 8, "gather"), ("fp32", 1, "gather"), ("bf16", 1, "gather")],
)
def test_few_images_of_halves_take_the_latency_kernels(
    taken: list[Any], dtype: str, batch: int, expected: str
) -> None:
    conv = nets.program("ovw:32@75%").convolutions[2]
    gpu.lower(conv, replace(case(), dtype=dtype, batch=batch))
    assert taken == [expected]


def test_what_they_refuse_is_gathered(taken: list[Any]) -> None:
    program = nets.program("ovw:16@75%")  # units of 16
    gpu.lower(program.convolutions[2], replace(case(), dtype="fp16", batch=1))
    assert taken == ["gather"]


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize(
    "pattern, batch, expected",
    [
        ("ovw:32@75%", 7, "latency"),
        ("ovw:32@75%", 8, "gather"),
        ("ovw:16@75%", 1, "gather"),
        ("block:32x16@50%", 7, "latency"),
        ("block:16x16@50%", 7, "gather"),
    ],
)
def test_a_network_and_its_dense_twin_run_on_the_same(
    taken: list[Any], pattern: str, batch: int, expected: str, sparse: bool
) -> None:
    gpu.lower_network(nets.program(pattern), replace(case(), batch=batch), sparse=sparse)
    assert taken == [(expected, sparse)]


@pytest.mark.parametrize(("batch", "moved"), [(7, True), (8, False)])
def test_rows_come_together_for_few_images(
    batch: int, moved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Program] = []

    def lower(program: Program, *_: Any, **named: Any) -> str:
        seen.append(program)
        return "a network"

    for module in (latency, gather):
        monkeypatch.setattr(module, "lower_network", lower)
    given = nets.program("ovw:8@75%")
    gpu.lower_network(given, replace(case(), batch=batch))
    (lowered,) = seen
    same = [
        torch.equal(a.weight, b.weight)
        for a, b in zip(given.convolutions, lowered.convolutions, strict=True)
    ]
    assert all(same) != moved


def test_other_patterns_beside_vectors_are_refused() -> None:
    vectors, others = nets.program("ovw:32@75%"), nets.program("cs:4")
    steps = tuple(
        b if "hidden" in str(getattr(b.op, "name", "")) else a
        for a, b in zip(vectors.steps, others.steps, strict=True)
    )
    mixed = dataclasses.replace(vectors, steps=steps)
    assert latency.lower_network(mixed, nets.case("fp32", 1)) is None


def test_units_fill_what_is_stored() -> None:
    conv = nets.program("ovw:32@75%").convolutions[2]
    wide = dataclasses.replace(
        conv, weight=torch.randn(96, 48, 3, 3), bias=torch.zeros(96),
        pattern=parse("ovw:64"),
    )  # fmt: skip
    assert "units of 32" in str(latency.why_not(wide, nets.case("fp32", 1)))


@pytest.mark.parametrize("dtype, limit", [("fp32", 1e-6), ("fp16", 2e-3)])
@pytest.mark.parametrize("pattern", ["ovw:32@75%", "shfl-bw:32@75%", "block:32x32@50%"])
def test_a_network_of_few_images_equals_the_reference(
    pattern: str, dtype: str, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    meaning.install(monkeypatch)
    given = small_program(parse(pattern), seed=1)
    lowered = gpu.lower_network(given, replace(nets.case(dtype, 2), input=INPUT))
    x = torch.randn(2, *INPUT).to(TORCH_DTYPE[dtype])
    assert reference.relative_error(lowered(x), reference.run(given, x)) < limit
    assert sum(layer.ran == "sparse" for layer in lowered.layers) == 8
    assert all("latency" in (layer.algorithm or "") for layer in lowered.layers)

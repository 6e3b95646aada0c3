"""A whole network: activations change form only where they must, and no layer is left out."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from csbench.backends.base import TORCH_DTYPE, LoweredConv
from csbench.backends.conformance.network import INPUT, small_program
from csbench.backends.csr import network
from csbench.core.case import Case
from csbench.core.pattern import parse
from csbench.errors import BackendError
from csbench.graph import reference
from csbench.graph.program import Conv, Program
from csbench.kernels import search
from csbench.kernels.csr import launch
from tests.backends.csr.layers import case
from tests.kernels.host import host

pytestmark = host.needs_gxx
TOLERANCE = {"fp32": 1e-6, "fp16": 2e-3, "bf16": 1e-2}


class DenseOnCpu:
    """Stands for cudnn, and answers channels last."""

    def lower(self, conv: Conv, case: Case) -> LoweredConv:
        def run(x: Tensor, residual: Tensor | None = None) -> Tensor:
            y = reference.convolution(conv, x, residual).to(x.dtype)
            return y.contiguous(memory_format=torch.channels_last)

        return LoweredConv(run, weight_bytes=4 * conv.weight.numel(), algorithm="dense")


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def shortest(runs: Mapping[str, Any], key: object, prepare: object = None) -> list[str]:
        return sorted(runs, key=lambda name: (not name.startswith("direct 1 rows x 64"), name))

    host.install(monkeypatch)
    monkeypatch.setattr(network, "Cudnn", DenseOnCpu)
    monkeypatch.setattr(search, "ranking", shortest)
    monkeypatch.setattr(search, "in_context", lambda *given: None)


def program() -> Program:
    return small_program(parse("unstructured"), seed=1)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_small_network_equals_the_reference(dtype: str, batch: int) -> None:
    given = program()
    lowered = network.lower_network(given, case(dtype, batch))
    x = torch.randn(batch, *INPUT).to(TORCH_DTYPE[dtype])
    out = lowered(x)
    assert out.dtype == TORCH_DTYPE[dtype]
    assert reference.relative_error(out, reference.run(given, x)) < TOLERANCE[dtype]
    ran = {layer.name: (layer.ran, layer.reason) for layer in lowered.layers}
    assert list(ran) == [conv.name for conv in given.convolutions]
    assert ran["stem"] == ran["fc"] == ("dense", "it carries no pattern")
    assert all(ran[name] == ("sparse", None) for name in ran if name not in ("stem", "fc"))
    assert all("products a weight" in (a.algorithm or "") for a in lowered.layers[1:-1])


def test_halves_are_paired_once_and_parted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    changes: list[str] = []
    for name in ("to_words", "from_words"):
        monkeypatch.setattr(launch, name, counted(name, getattr(launch, name), changes))
    lowered = network.lower_network(program(), case("fp16", 2))
    changes.clear()
    lowered(torch.randn(2, *INPUT).half())
    assert changes == ["to_words", "from_words"]


@pytest.mark.parametrize(("batch", "words"), [(1, torch.float32), (2, torch.float16)])
def test_no_word_is_half_padding(
    batch: int, words: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.dtype] = []
    run = launch.launch

    def launched(variant: launch.Variant, x: Tensor, *rest: Any) -> None:
        seen.append(x.dtype)
        run(variant, x, *rest)

    monkeypatch.setattr(launch, "launch", launched)
    lowered = network.lower_network(program(), case("fp16", batch))
    lowered(torch.randn(batch, *INPUT).half())
    assert set(seen) == {words}
    sparse = [layer for layer in lowered.layers if layer.ran == "sparse"]
    assert all((batch == 1) == ("one image as fp32" in (a.algorithm or "")) for a in sparse)


def counted(name: str, function: Any, calls: list[str]) -> Any:
    def run(*given: Any, **named: Any) -> Any:
        calls.append(name)
        return function(*given, **named)

    return run


def test_no_dense_weight_is_held_beside_the_packed_ones() -> None:
    given = program()
    sizes = {conv.weight.numel() for conv in given.convolutions[1:-1]}
    before = of_sizes(sizes)  # the program's own, and what other tests left
    lowered = network.lower_network(given, case("fp16", 1))
    x = torch.randn(1, *INPUT).half()
    lowered(x)
    known = {t.untyped_storage().data_ptr() for t in before}
    held = [t for t in of_sizes(sizes) if t.untyped_storage().data_ptr() not in known]
    assert not [tuple(t.shape) for t in held]
    assert reference.relative_error(lowered(x), reference.run(given, x)) < TOLERANCE["fp16"]


def of_sizes(sizes: set[int]) -> list[Tensor]:
    """Every tensor in memory with so many elements."""
    gc.collect()
    found = [t for t in gc.get_objects() if type(t) is Tensor and t.device.type == "cpu"]
    return [t for t in found if t.layout == torch.strided and t.numel() in sizes]


def test_another_batch_is_refused() -> None:
    lowered = network.lower_network(program(), case("fp32", 2))
    with pytest.raises(BackendError, match=r"lowered for words of \[2, 64, 8, 8\].*not \[3, 64"):
        lowered(torch.randn(3, *INPUT))
    lowered = network.lower_network(program(), case("fp16", 1))
    with pytest.raises(BackendError, match=r"lowered for words of \[1, 64, 8, 8\].*not \[2, 64"):
        lowered(torch.randn(2, *INPUT).half())


def test_a_grouped_layer_runs_dense_and_says_why() -> None:
    given = program()
    steps = list(given.steps)
    (i,) = (i for i, step in enumerate(steps) if step.name == "c1")
    conv = steps[i].op
    assert isinstance(conv, Conv)
    grouped = dataclasses.replace(conv, weight=conv.weight[:, :32], groups=2)
    steps[i] = dataclasses.replace(steps[i], op=grouped)
    given = dataclasses.replace(given, steps=tuple(steps))
    lowered = network.lower_network(given, case("fp32", 1))
    (layer,) = (layer for layer in lowered.layers if layer.name == "c1")
    assert layer.ran == "dense" and "2 groups" in (layer.reason or "")
    x = torch.randn(1, *INPUT)
    assert reference.relative_error(lowered(x), reference.run(given, x)) < 1e-6

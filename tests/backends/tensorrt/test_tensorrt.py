"""A program as a TensorRT network: right on every model, right flags, and what ran is told."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from csbench.backends.tensorrt.backend import TensorRt
from csbench.core.case import Case
from csbench.core.pattern import PatternSpec
from csbench.errors import BackendError
from csbench.graph import reference, trace
from csbench.graph.attach import attach
from csbench.graph.program import Program, Step
from csbench.models import build, calibrate
from tests.gpu.shapes import AWKWARD, convolution

FAKE = Path(__file__).parent / "fake_tensorrt.py"
GROUPED = {"cin": 8, "cout": 8, "kernel": (3, 3), "size": (9, 9), "groups": 8}


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The stand-in for the package, new for each test; streams are those of a GPU."""
    spec = importlib.util.spec_from_file_location("tensorrt", FAKE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    spec.loader.exec_module(module)
    stream: Any = SimpleNamespace(cuda_stream=7)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    yield module


def case(dtype: str = "fp32", batch: int = 2, pattern: str = "dense") -> Case:
    return Case(
        model="m", pattern=pattern, sparsity=0.5, backend="tensorrt", baseline="cudnn",
        device="cpu", dtype=dtype, batch=batch,
    )  # fmt: skip


def program(name: str, size: int, classes: int = 10) -> Program:
    model = build(name, num_classes=classes)
    calibrate(model, (3, size, size))
    return trace(model, (3, size, size), name)


def flattening() -> Program:
    """What VGG does: max pooling without overlap, and an image flattened for linear layers."""
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(200, 5)]
    return trace(nn.Sequential(*layers).eval(), (3, 12, 12), "flattening")


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "resnet20", "flattening"])
def test_a_network_equals_the_reference(trt: ModuleType, name: str) -> None:
    made = flattening() if name == "flattening" else program(name, 64)
    network = TensorRt().lower_network(made, case(batch=1))
    x = torch.randn(1, *made.input_size)
    for memory in (torch.contiguous_format, torch.channels_last):
        out = network(x.contiguous(memory_format=memory))
        assert reference.relative_error(out, reference.run(made, x)) < 1e-5
    assert {layer.name for layer in network.layers} == {c.name for c in made.convolutions}
    assert {layer.ran for layer in network.layers} == {"dense"}


@pytest.mark.parametrize("shape", [*AWKWARD, "grouped"])
def test_a_layer_equals_the_reference(trt: ModuleType, shape: str) -> None:
    conv = convolution(**(GROUPED if shape == "grouped" else AWKWARD[shape]))
    lowered = TensorRt().lower(conv, case(batch=3))
    x = torch.randn(3, *conv.input_size)
    inputs = (x, torch.randn(3, *conv.output_size)) if conv.residual else (x,)
    expected = reference.convolution(conv, *inputs)
    assert reference.relative_error(lowered(*inputs), expected) < 1e-5


@pytest.mark.parametrize(
    ("dtype", "flags"),
    [("fp32", set()), ("tf32", {"TF32"}), ("fp16", {"FP16"}), ("bf16", {"BF16"})],
)
def test_each_precision_has_its_flag_and_its_type(
    trt: ModuleType, dtype: str, flags: set[str]
) -> None:
    conv = convolution(**AWKWARD["residual"])
    lowered = TensorRt().lower(conv, case(dtype))
    (config,) = trt.builds
    assert {flag.name for flag in config.flags} == {*flags, "SPARSE_WEIGHTS"}
    assert config.builder_optimization_level == 5
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(dtype, torch.float32)
    inputs = [torch.randn(2, *size).to(kind) for size in (conv.input_size, conv.output_size)]
    out = lowered(*inputs)
    assert out.dtype == kind
    assert reference.relative_error(out, reference.convolution(conv, *inputs)) < 1e-2


def sparse_program() -> Program:
    made = program("resnet20", 32)
    names = [conv.name for conv in made.convolutions if conv.weight.shape[1] > 3][:-1]
    return attach(made, {name: PatternSpec("nm", (2, 4)) for name in names})


def test_what_ran_is_what_the_engine_says(trt: ModuleType) -> None:
    made = sparse_program()
    first, second = [conv for conv in made.convolutions if conv.pattern is not None][:2]
    trt.sparse_layers.add(first.name)
    network = TensorRt().lower_network(made, case("fp16", pattern="nm:2:4"))
    told = {layer.name: layer for layer in network.layers}
    assert (told[first.name].ran, told[first.name].algorithm) == ("sparse", "sm90_sparse_conv")
    assert told[first.name].bytes == first.weight.numel() + first.weight.numel() // 8
    assert told[second.name].reason == "tensorrt chose a dense kernel: sm90_conv"
    assert told[made.convolutions[0].name].reason == "it carries no pattern"
    assert TensorRt().lower(first, case("fp16")).ran_dense is None
    assert "dense kernel" in (TensorRt().lower(second, case("fp16")).ran_dense or "")


def test_dense_weights_are_not_offered_as_sparse(trt: ModuleType) -> None:
    TensorRt().lower_network(program("resnet20", 32), case("fp16"))
    assert {flag.name for flag in trt.builds[0].flags} == {"FP16"}


def test_a_step_without_a_layer_is_named(trt: ModuleType) -> None:
    made = program("resnet20", 32)
    odd = Step(torch.sigmoid, (made.result,), made.result + 1, "head.sigmoid")
    longer = Program("m", made.input_size, (*made.steps, odd), made.result + 1)
    with pytest.raises(BackendError, match=r"no layer for step 'head.sigmoid'"):
        TensorRt().lower_network(longer, case())


def test_an_engine_that_cannot_be_built_is_one_line(trt: ModuleType) -> None:
    trt.builds_fail = True
    with pytest.raises(BackendError, match="tensorrt built no engine for fp32, batch 2"):
        TensorRt().lower(convolution(**AWKWARD["3x3"]), case())


def test_what_is_missing_says_how_to_get_it(
    trt: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert TensorRt().missing("cuda") is None
    trt.__version__ = "10.16.1.11"
    assert TensorRt().missing("cuda") is None
    trt.__version__ = "8.6.1"
    install = "pip install 'tensorrt>=10,<11'"
    assert TensorRt().missing("cuda") == f"tensorrt 8.6.1 is too old; {install}"
    trt.__version__ = "11.4.0.106"
    too_new = "is too new (it has no precision flags)"
    assert TensorRt().missing("cuda") == f"tensorrt 11.4.0.106 {too_new}; {install}"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert TensorRt().missing("cuda") == f"no tensorrt; {install}"


def test_weights_that_are_not_2_4_are_refused_with_the_reason() -> None:
    conv = convolution(**AWKWARD["3x3"], sparsity=0.0)
    reason = TensorRt().why_not(conv, case())
    assert reason == "tensorrt knows 2:4 alone; block:32x32 keeps more than 2 of some 4"

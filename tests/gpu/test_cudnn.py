"""The dense baseline: right in every precision and layout, and nothing leaks out of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from csbench.backends.dense.algorithms import FORMATS, TORCH_DTYPE, DenseConv, precision, sample
from csbench.backends.dense.cudnn import Cudnn, fold_biases
from csbench.bench.memory import let_go
from csbench.graph import reference, trace
from csbench.graph.program import Program, Step
from csbench.kernels import search
from csbench.models import build, calibrate
from tests.gpu.shapes import AWKWARD, TOLERANCE, case, convolution

SHAPES = {
    **AWKWARD,
    "grouped": {"cin": 64, "cout": 64, "kernel": (3, 3), "size": (9, 9), "groups": 64},
    "stem": {"cin": 3, "cout": 64, "kernel": (7, 7), "size": (32, 32), "stride": 2},
}


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_algorithm_equals_the_reference(shape: str, dtype: str) -> None:
    conv = convolution(**SHAPES[shape])
    for layout in FORMATS:
        dense = DenseConv(conv, dtype, "cuda", layout)
        x, residual = sample(conv, case(dtype), layout)
        expected = reference.convolution(conv, x, residual)
        for name, placed in dense.algorithms().items():
            for algorithm in placed:
                with precision(dtype):
                    out = algorithm(x, residual)
                error = reference.relative_error(out, expected)
                assert error < TOLERANCE[dtype], (layout, name, error)


def _kernels(run: Callable[[], object]) -> int:
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        run()
        torch.cuda.synchronize()
    return len(seen.events())


@pytest.mark.gpu
def test_cudnn_searches_again_for_weights_at_another_alignment() -> None:
    conv = convolution(72, 40, (3, 3), (11, 11))
    x, _ = sample(conv, case("fp16"), "NHWC")
    fused = DenseConv(conv, "fp16", "cuda", "NHWC").algorithms()["fused"]
    assert len(fused) == 4
    with precision("fp16"):
        for algorithm in fused:
            searching, running = (_kernels(partial(algorithm, x, None)) for _ in range(2))
            assert searching > running


@pytest.mark.gpu
@pytest.mark.parametrize("layout", FORMATS)
def test_lowered_layer_accepts_both_layouts(layout: str) -> None:
    conv = convolution(64, 64, (3, 3), (14, 14), residual=True)
    lowered = Cudnn().lower(conv, case())
    x, residual = sample(conv, case(), layout)
    error = reference.relative_error(lowered(x, residual), reference.convolution(conv, x, residual))
    assert error < TOLERANCE["fp32"]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ("fp32", "fp16"))
def test_a_classifier_holds_its_weights_once(dtype: str) -> None:
    conv = convolution(2048, 1000, (1, 1), (1, 1), activation="none")
    Cudnn().lower(conv, case(dtype))  # with it what torch keeps for libraries
    let_go()
    before = torch.cuda.memory_allocated()
    lowered = Cudnn().lower(conv, case(dtype))
    let_go()
    held = torch.cuda.memory_allocated() - before
    assert lowered.weight_bytes <= held < 1.5 * lowered.weight_bytes


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_network_equals_the_reference_and_can_be_captured(dtype: str) -> None:
    model = build("resnet18")
    calibrate(model, (3, 64, 64))
    program = trace(model, (3, 64, 64), "resnet18")
    lowered = Cudnn().lower_network(program, case(dtype, batch=2))
    x = torch.randn(2, 3, 64, 64, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = lowered(x)
    x.copy_(torch.randn_like(x))
    graph.replay()
    error = reference.relative_error(out, reference.run(program, x))
    assert error < 5 * TOLERANCE[dtype]
    assert {r.ran for r in lowered.layers} == {"dense"}
    assert len(lowered.layers) == len(program.convolutions)


@pytest.mark.gpu
def test_what_was_searched_before_is_built_without_measuring(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build("resnet18")
    calibrate(model, (3, 64, 64))
    program = trace(model, (3, 64, 64), "resnet18")
    conv = program.convolutions[1]
    first = Cudnn().lower_network(program, case(batch=2)), Cudnn().lower(conv, case(batch=2))

    def measure(*_: object) -> None:
        raise AssertionError("it was measured again")

    monkeypatch.setattr(search, "measure", measure)
    monkeypatch.setattr(search, "_network_ms", measure)
    again = Cudnn().lower_network(program, case(batch=2)), Cudnn().lower(conv, case(batch=2))
    assert again[0].layers == first[0].layers
    assert again[1].algorithm == first[1].algorithm


@pytest.mark.gpu
def test_tf32_is_on_for_tf32_alone() -> None:
    conv = convolution(256, 256, (3, 3), (14, 14), sparsity=0.0)
    x, _ = sample(conv, case(batch=8), "NHWC")
    expected = reference.convolution(conv, x)
    error = {}
    for dtype in ("tf32", "fp32"):
        out = Cudnn().lower(conv, case(dtype, batch=8))(x)
        error[dtype] = reference.relative_error(out, expected)
    assert error["fp32"] < 1e-5 < 1e-4 < error["tf32"]


def test_precision_restores_the_switches() -> None:
    def switches() -> tuple[object, ...]:
        cudnn = torch.backends.cudnn
        return (
            torch.backends.cuda.matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark,
            cudnn.deterministic,
        )  # fmt: skip

    before = switches()
    with pytest.raises(ZeroDivisionError), precision("tf32"):
        assert switches() == (True, True, True, False)
        raise ZeroDivisionError
    with precision("fp32"):
        assert switches()[:2] == (False, False)
    assert switches() == before


def test_shortcut_bias_moves_into_the_layer_that_adds_it() -> None:
    shortcut = convolution(8, 16, (1, 1), (4, 4), activation="none")
    main = convolution(8, 16, (3, 3), (4, 4), residual=True, seed=1)
    steps = (Step(shortcut, (0,), 1, "shortcut"), Step(main, (0, 1), 2, "main"))
    program = Program("block", (8, 4, 4), steps, 2)
    moved = fold_biases(program)
    assert not moved.convolutions[0].bias.any()
    assert moved.convolutions[1].bias.any()
    x = torch.randn(2, 8, 4, 4)
    assert reference.relative_error(reference.run(moved, x), reference.run(program, x)) < 1e-6


def test_shortcut_that_is_read_twice_keeps_its_bias() -> None:
    shortcut = convolution(8, 8, (1, 1), (4, 4), activation="none")
    main = dataclasses.replace(shortcut, residual=True)
    steps = (Step(shortcut, (0,), 1, "shortcut"), Step(main, (1, 1), 2, "main"))
    assert fold_biases(Program("block", (8, 4, 4), steps, 2)).convolutions[0].bias.any()


def test_missing_says_what_to_use_instead() -> None:
    if not torch.cuda.is_available():
        assert "onednn" in (Cudnn().missing("cuda") or "")
    assert TORCH_DTYPE["tf32"] is torch.float32

"""N:M on a GPU: networks by our own kernels, and every algorithm of cuSPARSELt, against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)

from csbench.backends.base import TORCH_DTYPE, Backend, NetworkBackend
from csbench.backends.nm.backend import Nm
from csbench.backends.nm.cusparselt import NmCusparselt
from csbench.backends.nm.cusparselt_layer import Layer
from csbench.backends.nm.cusparselt_layer import parse as parse_choice
from csbench.backends.nm.cusparselt_search import choose, trials
from csbench.core.case import Case
from csbench.core.pattern import PatternSpec, parse
from csbench.graph import reference, trace
from csbench.graph.attach import attach
from csbench.graph.program import Conv, Program, output_hw
from csbench.kernels.cusparselt.product import Algorithm, Plan, Problem
from csbench.kernels.cusparselt.windows import Windows, side_by_side
from csbench.models import build, calibrate
from csbench.sparse.network import sparsify_state
from csbench.sparse.patterns import for_spec
from tests.gpu.shapes import TOLERANCE, poisoned_memory

pytestmark = pytest.mark.gpu

IMAGE = (3, 64, 64)
NETWORK_TOLERANCE = {**TOLERANCE, "bf16": 4e-2}  # weights are not trained to bear rounding


def case(dtype: str, batch: int, **changes: Any) -> Case:
    given: dict[str, Any] = {
        "model": "resnet18", "pattern": "nm", "sparsity": 0.5, "backend": "nm",
        "baseline": "cudnn", "device": "cuda", "dtype": dtype, "batch": batch, "input": IMAGE,
    }  # fmt: skip
    return Case(**{**given, **changes})


def needs(backend: Backend) -> None:
    missing = backend.missing("cuda")
    if missing is not None:
        pytest.skip(missing)


def sparse_program(pattern: str) -> Program:
    model = build("resnet18", seed=3, num_classes=10)
    state, plan = sparsify_state(model.state_dict(), parse(pattern))
    model.load_state_dict(state)
    calibrate(model, IMAGE)
    carried = {name: spec for name, spec in plan.items() if isinstance(spec, PatternSpec)}
    return attach(trace(model, IMAGE, "resnet18"), carried)


def check_network(backend: NetworkBackend, pattern: str, dtype: str, batch: int) -> None:
    program = sparse_program(pattern)
    network = backend.lower_network(program, case(dtype, batch))
    assert network is not None
    assert [layer.name for layer in network.layers if layer.ran == "dense"] == ["conv1", "fc"]
    x = torch.randn(batch, *IMAGE).to(TORCH_DTYPE[dtype])
    with poisoned_memory():
        out = network(x.cuda())
    assert reference.relative_error(out, reference.run(program, x)) < NETWORK_TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", ["fp16", "tf32"])
@pytest.mark.parametrize(
    ("channels", "taps", "stride", "padding", "dilation"),
    [(8, 3, 1, 1, 1), (40, 3, 2, 1, 1), (264, 1, 2, 0, 1), (24, 3, 1, 2, 2)],
)
def test_windows_side_by_side(
    channels: int, taps: int, stride: int, padding: int, dilation: int, dtype: str
) -> None:
    size = (9, 7)
    out = output_hw(size, (taps, taps), *((n, n) for n in (stride, padding, dilation)))
    x = torch.randn(2, channels, *size).to(TORCH_DTYPE[dtype])
    columns = F.unfold(x.float(), taps, dilation, padding, stride)  # [2, channels * taps^2, pixels]
    expected = columns.unflatten(1, (channels, -1)).permute(0, 3, 2, 1).flatten(2).flatten(0, 1)
    rows, padded = len(expected), len(expected) + 5
    pairs = ((n, n) for n in (stride, padding, dilation))
    with poisoned_memory():
        windows = Windows((taps, taps), out, *pairs, padded)
        found = side_by_side(x.cuda().permute(0, 2, 3, 1).contiguous(), windows).cpu().float()
    assert torch.equal(found[:rows], expected)
    assert not found[rows:].any()


@pytest.mark.parametrize("batch", [1, 40])
@pytest.mark.parametrize(
    ("pattern", "dtype"),
    [("nm:2:4", "fp32"), ("nm:1:4", "fp16"), ("nm:1:16", "fp32"), ("nm:2:8", "bf16")],
)
def test_networks_by_our_own_kernels(pattern: str, dtype: str, batch: int) -> None:
    needs(Nm())
    check_network(Nm(), pattern, dtype, batch)


def test_patterns_beyond_2_4_are_refused_with_the_reason() -> None:
    needs(Nm())
    program = sparse_program("nm:4:8")
    (conv, *_) = (c for c in program.convolutions if c.pattern is not None)
    assert "nm:4:8 keeps more" in str(Nm().why_not(conv, case("fp16", 1)))
    assert Nm().lower_network(program, case("fp16", 1)) is None


@pytest.mark.parametrize(
    ("pattern", "dtype"), [("nm:2:4", "fp16"), ("cs:2", "bf16"), ("cs:4", "fp16"), ("cs:2", "tf32")]
)
def test_networks_by_cusparselt(pattern: str, dtype: str) -> None:
    needs(NmCusparselt())
    check_network(NmCusparselt(), pattern, dtype, 3)


def layer(
    kernel: int, size: tuple[int, int], pattern: str, *, stride: int = 1, cout: int = 96,
    **changes: Any,
) -> Conv:  # fmt: skip
    shape = ((stride, stride), (kernel // 2, kernel // 2), (1, 1))
    weight = torch.randn(cout, 64, kernel, kernel) / (8 * kernel)
    spec = parse(pattern)
    given: dict[str, Any] = {"activation": "relu", "residual": False, **changes}
    out = output_hw(size, (kernel, kernel), *shape)
    return Conv(
        "layer", weight * for_spec(spec).mask(weight), torch.randn(cout), *shape, 1,
        given["activation"], given["residual"], (64, *size), (cout, *out), spec,
    )  # fmt: skip


AWKWARD = {
    "1x1": (5, layer(1, (8, 8), "nm:2:4")),
    "1x1 residual, 147 pixels": (3, layer(1, (7, 7), "nm:2:4", residual=True)),
    "1x1 stride 2, relu6": (3, layer(1, (9, 7), "nm:1:2", stride=2, activation="relu6")),
    "3x3 residual": (3, layer(3, (8, 8), "nm:1:2", residual=True)),
    "3x3 alone": (2, layer(3, (5, 8), "nm:1:4", activation="none", residual=True)),
    "3x3 stride 2": (3, layer(3, (9, 9), "nm:1:2", stride=2)),
    "linear": (3, layer(1, (1, 1), "nm:1:2", cout=1024, activation="none")),
}


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "tf32"])
@pytest.mark.parametrize("name", AWKWARD)
def test_every_algorithm_of_cusparselt_on_awkward_shapes(name: str, dtype: str) -> None:
    needs(NmCusparselt())
    batch, conv = AWKWARD[name]
    if NmCusparselt().why_not(conv, case(dtype, batch)):
        pytest.skip("2:4 is not 1:2")
    searched, made = (Layer(conv, case(dtype, batch)) for _ in range(2))
    choose(searched, trials())
    sizes = [conv.input_size, *([conv.output_size] if conv.residual else [])]
    inputs = [torch.randn(batch, *s).to(TORCH_DTYPE[dtype]) for s in sizes]
    expected = reference.convolution(conv, *inputs)
    ran = [parse_choice(name) for name in searched.times]  # not those that end a process
    assert {choice.way for choice in ran} == set(made.ways)
    for choice in ran:
        given = [x.cuda() for x in inputs]
        with poisoned_memory():
            out = made.run_with(choice, *given)
        assert out.is_contiguous(memory_format=torch.channels_last)
        error = reference.relative_error(out, expected)
        assert error < TOLERANCE[dtype], f"{choice}: {error:.1e}"


def test_a_plan_is_of_the_algorithm_that_is_named() -> None:
    """Some add up in their workspace, so its size tells them apart."""
    needs(NmCusparselt())
    plan = Plan(Problem(512, 2048, 64 * 7 * 7, 1, 0, torch.float16), 0)
    sizes = [plan.workspace_bytes(Algorithm(n)) for n in range(plan.algorithms)]
    assert len(set(sizes)) > 1
    assert [plan.workspace_bytes(Algorithm(n)) for n in range(plan.algorithms)] == sizes


def test_layers_of_one_shape_keep_their_own_bias() -> None:
    needs(NmCusparselt())
    convs = [layer(1, (8, 8), "nm:2:4") for _ in range(2)]
    made = [Layer(conv, case("fp16", 2)) for conv in convs]
    choices = made[0].choices("direct")[:2]
    x = torch.randn(2, 64, 8, 8).half()
    for _ in range(2):
        for one, conv, choice in zip(made, convs, choices, strict=True):
            out = one.run_with(choice, x.cuda())
            error = reference.relative_error(out, reference.convolution(conv, x))
            assert error < TOLERANCE["fp16"]


@pytest.mark.parametrize("pattern", ["nm:2:4", "cs:2"])
def test_a_lowered_layer_takes_any_memory_format_and_says_what_was_tried(pattern: str) -> None:
    needs(NmCusparselt())
    conv = layer(3, (8, 6), pattern, residual=True)
    lowered = NmCusparselt().lower(conv, case("fp16", 2))
    assert lowered.algorithm is not None
    assert "explicit 0:" in lowered.algorithm and "by rows 0:" in lowered.algorithm
    x, residual = (torch.randn(2, *s).half() for s in (conv.input_size, conv.output_size))
    expected = reference.convolution(conv, x, residual)
    for memory in (torch.contiguous_format, torch.channels_last):
        given = (t.cuda().contiguous(memory_format=memory) for t in (x, residual))
        assert reference.relative_error(lowered(*given), expected) < TOLERANCE["fp16"]

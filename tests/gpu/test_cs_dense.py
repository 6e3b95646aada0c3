"""The dense twin of `cs`: right in every precision, and dense whatever zeros the weights have."""

from __future__ import annotations

import pytest
import torch

from csbench.backends.dense.own import CsDense
from csbench.core.case import Case
from csbench.core.pattern import PatternSpec
from csbench.graph import attach, reference, trace
from csbench.graph.program import Program
from csbench.models import build, calibrate
from csbench.sparse.network import sparsify_state
from tests.gpu.shapes import TOLERANCE

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def ready() -> None:
    if (missing := CsDense().missing("cuda")) is not None:
        pytest.skip(missing)


def case(dtype: str, batch: int) -> Case:
    return Case(
        model="resnet18", pattern="dense", sparsity=0.0, backend="cs-dense", baseline="cudnn",
        device="cuda", dtype=dtype, batch=batch,
    )  # fmt: skip


def sparse_program() -> Program:
    """Weights that sparse tensor cores would take."""
    model = build("resnet18", num_classes=10)
    calibrate(model, (3, 64, 64))
    state, plan = sparsify_state(model.state_dict(), PatternSpec("cs", (4,)))
    model.load_state_dict(state)
    carried = {name: spec for name, spec in plan.items() if isinstance(spec, PatternSpec)}
    return attach(trace(model, (3, 64, 64), "resnet18"), carried)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("batch", [2, 40])  # the kernels of one image, and those of many
def test_a_network_is_right_and_dense(dtype: str, batch: int) -> None:
    program = sparse_program()
    network = CsDense().lower_network(program, case(dtype, batch))
    assert network is not None
    assert {layer.ran for layer in network.layers} == {"dense"}
    assert {layer.name for layer in network.layers} == {c.name for c in program.convolutions}
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(dtype, torch.float32)
    x = torch.randn(batch, 3, 64, 64).to(kind)
    out = network(x.cuda())
    expected = reference.run(program, x[:2])
    assert reference.relative_error(out[:2], expected) < 5 * TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_a_layer_with_a_pattern_runs_dense(dtype: str) -> None:
    conv = next(c for c in sparse_program().convolutions if c.residual)
    assert CsDense().why_not(conv, case(dtype, 3)) is None
    lowered = CsDense().lower(conv, case(dtype, 3))
    kind = torch.float16 if dtype == "fp16" else torch.float32
    x, residual = (torch.randn(3, *size).to(kind) for size in (conv.input_size, conv.output_size))
    out = lowered(x.cuda(), residual.cuda())
    expected = reference.convolution(conv, x, residual)
    assert reference.relative_error(out, expected) < TOLERANCE[dtype]
    assert lowered.weight_bytes >= conv.weight.numel() * 2

"""Layers as they stand inside networks: a captured graph between activations of their layout."""

from __future__ import annotations

import pytest
import torch

from csbench.backends import registry
from csbench.bench.capture import Inputs, Replay, tensors_of
from csbench.core.case import Case
from csbench.core.pattern import parse
from csbench.core.tolerance import tolerance
from csbench.graph import reference
from csbench.graph.program import Conv
from csbench.sparse.patterns import for_spec
from tests.backends.cases import case, conv

pytestmark = pytest.mark.gpu

WAYS = (
    ("cudnn", "dense"), ("cs", "cs:4"), ("nm", "nm:1:4"), ("nm-cusparselt", "cs:2"),
    ("ovw", "ovw:32@50"), ("shfl-bw", "shfl-bw:32@50"), ("block-original", "block:32x32@50"),
    ("block-cutlass", "block:32x32@50"), ("block-vectors", "block:32x32@50"),
    ("csr", "unstructured@50"), ("cs-dense", "dense"),
)  # fmt: skip


def layer(pattern: str, kernel: int, residual: bool) -> Conv:
    spec = None if pattern == "dense" else parse(pattern)
    weight = torch.randn(96, 64, kernel, kernel, generator=torch.Generator().manual_seed(kernel))
    weight /= (64 * kernel * kernel) ** 0.5
    if spec is not None:
        weight *= for_spec(spec).mask(weight)
    return conv(
        weight=weight, bias=torch.randn(96), padding=(kernel // 2,) * 2, residual=residual,
        input_size=(64, 8, 8), output_size=(96, 8, 8), pattern=spec,
    )  # fmt: skip


def given(name: str, pattern: str, dtype: str, batch: int) -> Case:
    return case(
        task="layer", layer="conv", pattern=pattern, backend=name, baseline="cudnn",
        device="cuda", dtype=dtype, batch=batch,
    )  # fmt: skip


def draw(batch: int, sizes: list[tuple[int, int, int]], kind: torch.dtype) -> Inputs:
    return tuple(torch.randn(batch, *size, device="cuda", dtype=kind) for size in sizes)


@pytest.mark.parametrize("batch", [2, 64])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize(("name", "pattern"), WAYS)
def test_the_graph_between_own_layouts_is_the_layer(
    name: str, pattern: str, dtype: str, batch: int
) -> None:
    backend = registry.get(name)
    if dtype not in registry.dtypes(backend, "cuda"):
        pytest.skip(f"{name} does not run {dtype}")
    if (missing := backend.missing("cuda")) is not None:
        pytest.skip(missing)
    for kernel, residual in ((1, True), (3, False)):
        made, about = layer(pattern, kernel, residual), given(name, pattern, dtype, batch)
        assert backend.why_not(made, about) is None
        lowered = backend.lower(made, about)
        sizes = [made.input_size, *([made.output_size] if residual else [])]
        kind = torch.float16 if dtype == "fp16" else torch.float32
        replay = Replay(lowered, [draw(batch, sizes, kind) for _ in range(2)], lowered.inside)
        assert replay.mode == "graph", replay.note
        for _ in range(2):  # other numbers, so other scales, through the same graph
            inputs = draw(batch, sizes, kind)
            out = replay.fresh(inputs)
            assert out.dtype == kind
            assert out.shape == (batch, *made.output_size)
            expected = reference.convolution(made, *inputs)
            assert reference.relative_error(out, expected) < tolerance(dtype)
        assert len([*tensors_of(lowered.inside.enter(*inputs))]) >= len(inputs)

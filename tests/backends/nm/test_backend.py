"""Which N:M both sets of sparse tensor core kernels take, and how they say that they do not."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from csbench.backends import registry
from csbench.backends.cs import latency, throughput
from csbench.backends.cs.latency_layer import Grouping, grouping
from csbench.backends.nm.backend import Nm
from csbench.core.pattern import parse
from csbench.graph.program import Conv
from csbench.sparse.patterns import for_spec
from tests.backends.cases import case, conv


def layer(pattern: str) -> Conv:
    spec = parse(pattern)
    weight = torch.randn(48, 64, 3, 3)
    return conv(
        weight=weight * for_spec(spec).mask(weight), bias=torch.randn(48), pattern=spec,
        input_size=(64, 14, 14), output_size=(48, 14, 14),
    )  # fmt: skip


@pytest.mark.parametrize("kernels", [latency, throughput])
@pytest.mark.parametrize(
    "pattern",
    ["nm:1:2", "nm:2:4", "nm:1:4", "nm:1:8", "nm:1:16", "nm:1:64", "nm:2:8", "nm:2:16", "cs:4:16"],
)
def test_at_most_two_of_four_neighbours_are_taken(kernels: object, pattern: str) -> None:
    assert kernels.why_not(layer(pattern), case(device="cuda", dtype="fp16")) is None  # type: ignore[attr-defined]


@pytest.mark.parametrize("kernels", [latency, throughput])
@pytest.mark.parametrize("pattern", ["nm:4:8", "nm:3:4", "nm:8:16"])
def test_more_of_them_are_refused(kernels: object, pattern: str) -> None:
    carried = parse(pattern).at(parse(pattern).own_sparsity or 0.0)  # as networks carry it
    conv = dataclasses.replace(layer(pattern), pattern=carried)
    reason = kernels.why_not(conv, case(device="cuda", dtype="fp16"))  # type: ignore[attr-defined]
    refusal = f"sparse tensor cores take 2 of 4 neighbours; {pattern} keeps more of some"
    assert reason is not None and reason.startswith(refusal)


@pytest.mark.parametrize("pattern", ["nm:4:8", "nm:3:4"])
def test_on_a_hopper_gpu_the_refusal_names_what_runs_the_pattern(
    pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kernels in (latency, throughput):
        monkeypatch.setattr(kernels, "missing", lambda: None)
    reason = Nm().why_not(layer(pattern), case(device="cuda", dtype="fp16"))
    assert reason is not None and reason.endswith(", and runs by --backend csr")
    assert "nm" in registry.get("csr").patterns
    assert registry.get("csr").why_not(layer(pattern), case(device="cuda", dtype="fp16")) is None


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("cs:8", Grouping(8, 0)), ("cs:8:16", Grouping(8, 16)), ("nm:1:8", Grouping(8, 8)),
        ("nm:1:2", Grouping(2, 2)), ("nm:2:8", Grouping(2, 2)), ("cs:4:64", Grouping(4, 0)),
    ],
)  # fmt: skip
def test_groupings(pattern: str, expected: Grouping) -> None:
    assert grouping(layer(pattern)) == expected


def test_it_is_declared_for_gpus_and_nm_alone() -> None:
    backend = Nm()
    assert (backend.patterns, backend.devices) == ({"nm"}, {"cuda"})
    if not torch.cuda.is_available():
        hopper = "these kernels are for Hopper GPUs (H100, H200)"
        assert backend.missing("cuda") == f"no CUDA device; {hopper}"

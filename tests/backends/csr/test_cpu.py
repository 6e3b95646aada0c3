"""Unstructured weights on a CPU against the float64 reference."""

from __future__ import annotations

import pytest
import torch

from csbench.backends.csr import cpu as cpu_csr
from csbench.core.pattern import parse
from csbench.kernels import build
from tests.backends.cases import case, conv
from tests.backends.native import error, layers, pruned

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="no C++ compiler")


@pytest.mark.parametrize(
    ("pattern", "cin", "cout"),
    [
        ("unstructured@50%", 64, 37), ("unstructured@93.75%", 40, 50), ("unstructured@0", 17, 19),
        ("nm:4:8@50%", 64, 33), ("ovw:16@75%", 20, 48), ("cs:5@80%", 35, 8),
    ],
)  # fmt: skip
def test_any_zeros_are_right(pattern: str, cin: int, cout: int) -> None:
    for layer, given in layers(parse(pattern), cin, cout):
        run = cpu_csr.lower(layer, given)
        assert error(run, layer, given.batch) < 1e-5, layer.describe()


def test_rows_of_any_length_are_right() -> None:
    weight = torch.randn(48, 32, 3, 3)
    keep = torch.rand(48, 1, 1, 1) ** 4  # a few rows hold most of it
    weight *= torch.rand_like(weight) < keep
    weight[:5] = 0
    layer = conv(
        weight=weight, bias=torch.randn(48), residual=True, input_size=(32, 14, 14),
        output_size=(48, 14, 14), pattern=parse("unstructured"),
    )  # fmt: skip
    assert error(cpu_csr.lower(layer, case(batch=3)), layer, 3) < 1e-5


def test_zeros_are_neither_stored_nor_multiplied() -> None:
    layer = conv(
        weight=torch.randn(64, 64, 3, 3), bias=torch.ones(64), input_size=(64, 9, 9),
        output_size=(64, 9, 9),
    )  # fmt: skip
    sparse = pruned(layer, parse("unstructured@93.75%"))
    half, sixteenth = (
        cpu_csr.lower(pruned(layer, parse(f"unstructured@{s}")), case()).weight_bytes
        for s in ("50%", "93.75%")
    )
    assert sixteenth < half / 6 < layer.weight.numel() * 4 / 5
    x = torch.zeros(1, 64, 9, 9)
    channel = int((sparse.weight == 0).sum((0, 2, 3)).argmax())
    x[0, channel] = torch.inf
    dead = (sparse.weight[:, channel] == 0).flatten(1).all(1)
    assert dead.any() and torch.isfinite(cpu_csr.lower(sparse, case())(x)[0, dead]).all()


def test_refusals_say_why() -> None:
    grouped = conv(groups=2, weight=torch.randn(6, 4, 3, 3))
    assert "2 groups" in (cpu_csr.why_not(grouped, case()) or "")
    assert "fp32, not bf16" in (cpu_csr.why_not(conv(), case(dtype="bf16")) or "")
    assert cpu_csr.why_not(conv(), case()) is None

"""Complementary Sparsity on a CPU: both kernels against the float64 reference."""

from __future__ import annotations

import pytest
import torch

from csbench.backends.cs import cpu as cpu_cs
from csbench.core.pattern import PatternSpec, parse
from csbench.errors import BackendError
from csbench.kernels import build
from tests.backends.cases import case, conv
from tests.backends.native import error, layers, pruned

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="no C++ compiler")

PATTERNS = ("cs:1", "cs:2", "cs:4", "cs:8", "cs:16", "cs:4:16", "cs:8:8")


def spec_of(text: str) -> PatternSpec:
    spec = parse(text)
    return spec.at(1 - 1 / spec.parameters[0])


@pytest.mark.parametrize("pattern", [*PATTERNS, "cs:3", "cs:32"])
def test_pixels_on_lanes_are_right(pattern: str) -> None:
    cin = 96 if pattern == "cs:3" else 64
    for layer, given in layers(spec_of(pattern), cin, 37):
        run = cpu_cs.lower_pixels(layer, given)
        assert error(run, layer, given.batch) < 1e-5, layer.describe()


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(("cin", "cout"), [(64, 37), (128, 112)])
def test_channels_on_lanes_are_right(pattern: str, cin: int, cout: int) -> None:
    if not cpu_cs.has_lanes():
        pytest.skip("no AVX-512")
    for layer, given in layers(spec_of(pattern), cin, cout):
        run = cpu_cs.lower_lanes(layer, given)
        assert error(run, layer, given.batch) < 1e-5, layer.describe()


@pytest.mark.parametrize("cin", [32, 256, 48])
def test_every_way_to_permute_channels(cin: int) -> None:
    if not cpu_cs.has_lanes():
        pytest.skip("no AVX-512")
    for m in (2, 4, 8, 16):
        layer = conv(
            weight=torch.randn(16, cin, 3, 3), bias=torch.zeros(16), activation="none",
            input_size=(cin, 7, 5), output_size=(16, 7, 5),
        )  # fmt: skip
        layer = pruned(layer, spec_of(f"cs:{m}"))
        assert error(cpu_cs.lower_lanes(layer, case()), layer, 1) < 1e-5, m


def test_any_number_of_threads_gives_the_same() -> None:
    layer = pruned(
        conv(
            weight=torch.randn(64, 64, 3, 3), bias=torch.randn(64), input_size=(64, 14, 14),
            output_size=(64, 14, 14),
        ),
        spec_of("cs:4"),
    )  # fmt: skip
    x = torch.randn(1, 64, 14, 14)
    before = torch.get_num_threads()
    for lower in (cpu_cs.lower, cpu_cs.lower_pixels):
        run, results = lower(layer, case()), []
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            try:
                results.append(run(x))
            finally:
                torch.set_num_threads(before)
        assert all(torch.equal(results[0], other) for other in results[1:])


def test_zeros_cost_no_bytes_and_the_choice_is_reported() -> None:
    layer = conv(
        weight=torch.randn(64, 64, 3, 3), bias=torch.randn(64), input_size=(64, 9, 9),
        output_size=(64, 9, 9),
    )  # fmt: skip
    half, sixteenth = (
        cpu_cs.lower(pruned(layer, spec_of(f"cs:{m}")), case()).weight_bytes for m in (2, 16)
    )
    assert sixteenth < half / 7 and half < layer.weight.numel() * 4 * 1.2
    wide = cpu_cs.lower(pruned(layer, spec_of("cs:32")), case())
    assert wide.algorithm is not None and "pixels, channels in" in wide.algorithm


def test_nan_in_the_input_is_not_hidden_by_an_activation() -> None:
    for activation in ("relu", "relu6"):
        layer = conv(
            weight=torch.ones(16, 16, 1, 1), bias=torch.zeros(16), padding=(0, 0),
                activation=activation,
            input_size=(16, 4, 4), output_size=(16, 4, 4), pattern=spec_of("cs:1"),
        )  # fmt: skip
        x = torch.full((1, 16, 4, 4), float("nan"))
        for lower in (cpu_cs.lower, cpu_cs.lower_pixels):
            assert lower(layer, case())(x).isnan().all()


def test_refusals_say_why() -> None:
    grouped = conv(groups=2, weight=torch.randn(6, 4, 3, 3))
    assert "2 groups" in (cpu_cs.why_not(grouped, case()) or "")
    assert "fp32, not bf16" in (cpu_cs.why_not(conv(), case(dtype="bf16")) or "")
    assert cpu_cs.why_not(conv(), case()) is None


def test_another_input_size_is_refused() -> None:
    layer = pruned(conv(), spec_of("cs:2"))
    with pytest.raises(BackendError, match=r"lowered for an input of \[1, 8, 7, 5\]"):
        cpu_cs.lower(layer, case())(torch.randn(2, 8, 7, 5))

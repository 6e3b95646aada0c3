"""Masked weights run on the device's dense backend, and say so."""

from __future__ import annotations

import torch

from csbench.backends import registry
from csbench.backends.dense.masked import Masked
from csbench.core.pattern import parse
from csbench.graph import reference
from tests.backends.cases import case, conv


def test_it_runs_the_dense_backend_and_says_so() -> None:
    layer = conv(pattern=parse("cs:2"))
    layer.weight[:, :4] = 0
    run = Masked().lower(layer, case(backend="masked", pattern="cs"))
    x = torch.randn(3, 8, 7, 5)
    assert reference.relative_error(run(x), reference.convolution(layer, x)) < 1e-5
    assert run.algorithm is not None
    assert run.algorithm.startswith("masked weights, dense onednn")


def test_it_is_a_dense_backend_and_never_a_default() -> None:
    assert Masked.patterns == {"dense"}
    for pattern in ("dense", "cs", "block", "unstructured"):
        assert "masked" not in registry.for_pattern(pattern, "cpu", "fp32")


def test_it_lacks_what_the_dense_backend_lacks() -> None:
    assert Masked().missing("cpu") is None
    assert Masked().missing("cuda") == registry.get("cudnn").missing("cuda")
    assert "fp16" in str(Masked().why_not(conv(), case(dtype="fp16"))) or (
        "fp16" in registry.get("onednn").dtypes
    )

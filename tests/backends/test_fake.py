"""The fake backend is the reference in the input's precision, and the same every time."""

from __future__ import annotations

import pytest
import torch

from csbench.backends.fake import Fake
from csbench.graph import reference
from tests.backends.cases import case, conv


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_it_is_the_reference(dtype: torch.dtype) -> None:
    layer = conv(residual=True)
    run = Fake().lower(layer, case())
    x = torch.randn(2, 8, 7, 5).to(dtype)
    residual = torch.randn(2, 6, 7, 5).to(dtype)
    out = run(x, residual)
    assert out.dtype == dtype
    assert torch.equal(out, reference.convolution(layer, x, residual).to(dtype))
    assert torch.equal(out, run(x, residual))
    assert not torch.equal(out, run(x, residual + 1))


def test_it_refuses_nothing() -> None:
    fake = Fake()
    assert fake.missing("cpu") is None
    assert (fake.missing("cuda") is None) == torch.cuda.is_available()
    assert fake.why_not(conv(), case(dtype="fp16", device="cuda")) is None
    assert {"dense", "block", "cs", "nm"} <= fake.patterns

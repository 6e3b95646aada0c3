"""SR-STE's kernels give what torch's operations give, whatever the layers' shapes and order."""

from __future__ import annotations

import pytest
import torch

from csbench.training.sr_ste import CudaWork, TorchWork, work_on
from tests.training.test_sr_ste import layers_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
# Groups of 8 and more by torch keep any of equal weights; here no two are equal.
PATTERNS = ("nm:1:2", "nm:1:3", "nm:2:4", "nm:3:4", "nm:4:4", "nm:2:8", "nm:5:12", "nm:4:16")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_masks_and_copies(pattern: str, channels_last: bool, dtype: torch.dtype) -> None:
    layers = layers_of(pattern, channels_last, "cuda")
    work, plain = work_on(layers), TorchWork(layers)
    assert isinstance(work, CudaWork)
    for seed in range(3):
        draw = torch.Generator("cuda").manual_seed(seed)
        layers.flat.copy_(torch.randn(layers.flat.shape, device="cuda", generator=draw))
        expected = [p.detach().to(dtype, copy=True) for p in layers.parameters]
        plain.hide(expected)
        mask = layers.mask.clone()
        layers.mask.view(torch.uint8).fill_(7)
        copies = [torch.full_like(copy, torch.nan) for copy in expected]
        work.hide(copies)
        assert torch.equal(layers.mask.view(torch.uint8), mask.view(torch.uint8))
        for copy, other in zip(copies, expected, strict=True):
            assert torch.equal(copy, other)


def test_of_equal_weights_the_first_are_kept() -> None:
    layers = layers_of("nm:2:4", True, "cuda")
    draw = torch.Generator("cuda").manual_seed(0)
    layers.flat.copy_(torch.randint(-1, 2, layers.flat.shape, device="cuda", generator=draw))
    copies = [p.detach().clone() for p in layers.parameters]
    TorchWork(layers).hide(copies)
    mask = layers.mask.clone()
    work_on(layers).hide(copies)
    assert torch.equal(layers.mask, mask)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_decay(pattern: str, channels_last: bool) -> None:
    layers = layers_of(pattern, channels_last, "cuda")
    work = work_on(layers)
    work.hide([p.detach().clone() for p in layers.parameters])
    for parameter in layers.parameters[:-1]:  # one layer has no gradient
        parameter.grad = torch.randn_like(parameter)
    before = [p.grad if p.grad is None else p.grad.double() for p in layers.parameters]
    with torch.no_grad():
        work.decay(0.37)
    assert layers.parameters[-1].grad is None
    for parameter, mask, old in zip(layers.parameters, layers.masks, before, strict=True):
        if old is not None:
            exact = old + 0.37 * parameter.detach().double() * ~mask
            torch.testing.assert_close(parameter.grad.double(), exact, rtol=2e-7, atol=2e-7)


def test_decay_reaches_gradients_that_lie_in_another_order() -> None:
    layers = layers_of("nm:2:4", True, "cuda")
    work = work_on(layers)
    work.hide([p.detach().clone() for p in layers.parameters])
    for parameter in layers.parameters:
        parameter.grad = torch.zeros(parameter.shape, device="cuda")
    with torch.no_grad():
        work.decay(1.0)
    for parameter, mask in zip(layers.parameters, layers.masks, strict=True):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, parameter.detach() * ~mask)

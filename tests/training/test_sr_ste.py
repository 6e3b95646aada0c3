"""SR-STE's masks, copies and decay over all layers at once, and the work list of its kernels."""

from __future__ import annotations

import pytest
import torch

from csbench.core.pattern import PatternSpec, parse
from csbench.training.layers import SparseLayers
from csbench.training.sr_ste import TorchWork, work_list, work_on
from tests.training.nets import awkward


def layers_of(pattern: str, channels_last: bool, device: str = "cpu") -> SparseLayers:
    spec: PatternSpec = parse(pattern)
    order = torch.channels_last if channels_last else torch.contiguous_format
    model = awkward().to(device, memory_format=order)  # type: ignore[call-overload]
    return SparseLayers(model, spec.at(spec.own_sparsity or 0.0), channels_last)


@pytest.mark.parametrize("channels_last", [False, True])
def test_copies_are_the_masked_weights_and_their_gradient_goes_straight_through(
    channels_last: bool,
) -> None:
    layers = layers_of("nm:2:4", channels_last)
    work = work_on(layers)
    assert isinstance(work, TorchWork)
    copies = [p.to(torch.bfloat16, copy=True) for p in layers.parameters]
    with torch.no_grad():
        work.hide(copies)
    for copy, parameter, mask in zip(copies, layers.parameters, layers.masks, strict=True):
        assert torch.equal(copy, (parameter * mask).bfloat16())
        copy.float().sum().backward()
        assert parameter.grad is not None and bool((parameter.grad == 1).all())


def test_decay_passes_over_layers_without_a_gradient() -> None:
    layers = layers_of("nm:1:4", channels_last=True)
    work = work_on(layers)
    layers.choose(layers.flat.abs(), 1)
    for parameter in layers.parameters[1:]:
        parameter.grad = torch.ones_like(parameter)
    with torch.no_grad():
        work.decay(0.5)
    assert layers.parameters[0].grad is None
    for parameter, mask in list(zip(layers.parameters, layers.masks, strict=True))[1:]:
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, 1 + 0.5 * parameter.detach() * ~mask)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("pattern", "m"), [("nm:1:2", 2), ("nm:1:3", 3), ("nm:4:16", 16)])
def test_blocks_take_every_group_once(pattern: str, m: int, channels_last: bool) -> None:
    layers = layers_of(pattern, channels_last)
    seen = torch.zeros(len(layers.flat), dtype=torch.long)
    for layer, begin, stride, first, end in work_list(layers, 0, m).tolist():
        assert begin == layers.places[layer].begin and 0 < end - first <= 256 * (16 // m)
        for group in range(first, end):
            at = begin + group // stride * m * stride + group % stride
            seen[at : at + m * stride : stride] += 1
    assert bool((seen == 1).all())

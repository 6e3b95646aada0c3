"""Calibrated synthetic networks have activations that every precision can hold."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from csbench import models
from csbench.graph.reference import relative_error


def largest_activation(model: nn.Module, images: torch.Tensor) -> float:
    """The largest magnitude that any module puts out."""
    largest = 0.0

    def look(_module: nn.Module, _inputs: object, out: torch.Tensor) -> None:
        nonlocal largest
        largest = max(largest, float(out.abs().max()))

    handles = [m.register_forward_hook(look) for m in model.modules()]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return largest


@pytest.mark.parametrize("name", ["resnet20", "resnet50", "mobilenet_v2"])
@pytest.mark.parametrize("density", [1.0, 0.0625])
def test_activations_stay_small_and_alive(name: str, density: float) -> None:
    model = models.build(name, seed=0, num_classes=10)
    size = (3, 64, 64)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.weight *= torch.rand_like(module.weight) < density
    models.calibrate(model, size, seed=1)
    images = torch.randn(2, *size)
    assert largest_activation(model, images) < 500  # half holds 65504
    with torch.no_grad():
        out = model(images)
    assert (out[0] - out[1]).abs().max() > 1e-3  # the image still decides the output


def test_calibration_depends_on_the_seed_and_restores_the_model() -> None:
    first, again = models.build("resnet20", seed=0), models.build("resnet20", seed=0)
    before = torch.get_rng_state()
    for model in (first, again):
        models.calibrate(model, (3, 32, 32), seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.bn1.running_mean, again.bn1.running_mean)
    assert not torch.equal(first.bn1.running_mean, torch.zeros(16))
    assert first.bn1.momentum == 0.1
    assert not any(m.training for m in first.modules())


def test_a_channel_without_weights_stays_finite() -> None:
    model = models.build("resnet20", seed=0)
    with torch.no_grad():
        model.layer1[0].conv1.weight[3] = 0
    models.calibrate(model, (3, 32, 32))
    assert model.layer1[0].bn1.running_var[3] == 1.0  # not the 0 that it would divide by
    assert model.layer1[0].bn1.running_var.min() > 1e-3


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2"])
def test_rounding_is_far_below_a_wrong_layer(name: str) -> None:
    """A random network must not be chaotic, or no tolerance tells a wrong kernel from rounding."""
    model = models.build(name, seed=0, num_classes=10)
    models.calibrate(model, (3, 64, 64))
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(images)
        rounded = copy.deepcopy(model).bfloat16()(images.bfloat16())
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups == 1]
        middle = convolutions[len(convolutions) // 2].weight
        middle.copy_(middle.roll(1, 0))
        wrong = model(images)
    rounding = relative_error(rounded, expected)
    assert rounding < 0.02
    assert relative_error(wrong, expected) > 3 * rounding

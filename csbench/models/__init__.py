"""Networks with torchvision's parameter names, and others by name.

>>> model = build("resnet50", seed=0)
"""

from __future__ import annotations

import torch
from torch import nn

from csbench.models.calibrate import calibrate
from csbench.models.initialise import initialise, soften
from csbench.models.resolve import BUILT_IN, Factory, ImageSize, resolve

__all__ = ["Factory", "ImageSize", "build", "calibrate", "default_input", "names", "resolve"]


def names() -> tuple[str, ...]:
    """The models that csbench brings itself."""
    return tuple(BUILT_IN)


def default_input(name: str) -> ImageSize:
    """The (channels, height, width) that a model is made for."""
    return resolve(name).input_size


def build(name: str, *, seed: int = 0, num_classes: int | None = None) -> nn.Module:
    """A model in eval mode with float32 weights that depend on the seed alone.

    torch's global generator is left as it was. Raises ModelError for a name that does not resolve.
    """
    factory = resolve(name)
    if factory.own:
        with torch.device("meta"):  # no time or memory spent on values that are overwritten
            model = factory(num_classes)
        model.to_empty(device="cpu")
        initialise(model, seed)
        return model.eval()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = factory(num_classes).eval()
    soften(model)
    return model

"""A convolution and a case, as the tests of backends need them."""

from __future__ import annotations

from typing import Any

import torch

from csbench.core.case import Case
from csbench.graph.program import Conv, output_hw


def case(**changes: Any) -> Case:
    given: dict[str, Any] = {
        "model": "test", "pattern": "dense", "sparsity": 0.0, "backend": "fake",
        "baseline": "fake", "device": "cpu",
    }  # fmt: skip
    return Case(**{**given, **changes})


def conv(seed: int = 0, kernel: int = 3, **changes: Any) -> Conv:
    """A 3x3 convolution of 8 to 6 channels on 7x5 images, with random weights."""
    generator = torch.Generator().manual_seed(seed)
    pad = kernel // 2
    given: dict[str, Any] = {
        "name": "conv", "weight": torch.randn(6, 8, kernel, kernel, generator=generator),
        "bias": torch.randn(6, generator=generator), "stride": (1, 1), "padding": (pad, pad),
        "dilation": (1, 1), "groups": 1, "activation": "relu", "residual": False,
        "input_size": (8, 7, 5),
    }  # fmt: skip
    given |= changes
    hw = output_hw(
        given["input_size"][1:], (kernel, kernel), given["stride"], given["padding"],
        given["dilation"],
    )  # fmt: skip
    return Conv(**{"output_size": (6, *hw), **given})

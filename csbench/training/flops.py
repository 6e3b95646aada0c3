"""Theoretical multiply-adds of one training step, counted on shapes alone."""

from __future__ import annotations

import math
from collections.abc import Container

import torch
from torch import Tensor, nn

from csbench.core.training import Flops

_PASSES = 3  # forward, gradient of the input, gradient of the weight


def count(
    model: nn.Module, size: tuple[int, int, int], batch: int, sparse: Container[str]
) -> Flops:
    """FLOPs (two a multiply-add) of a step's convolutions and linear layers.

    `sparse` are the parameters' names of the sparsified ones. `model` is on the meta device.
    """
    found = {"dense": 0.0, "sparse": 0.0}

    def counter(name: str):  # type: ignore[no-untyped-def]
        def add(layer: nn.Module, _: object, output: Tensor) -> None:
            weight = layer.get_parameter("weight")
            pixels = math.prod(output.shape[2:]) if output.ndim == 4 else 1
            flops = 2.0 * _PASSES * batch * weight.numel() * pixels
            found["dense"] += flops
            found["sparse"] += flops if f"{name}.weight" in sparse else 0.0

        return add

    hooks = [
        layer.register_forward_hook(counter(name))
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        model.eval()(torch.empty(1, *size, device="meta"))
    for hook in hooks:
        hook.remove()
    return Flops(dense_step=found["dense"], sparsified_step=found["sparse"])

"""SR-STE's work on the weights of all layers at once: CUDA kernels where they run, else torch."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from csbench.kernels import nvrtc
from csbench.training.layers import SparseLayers

_FILE = "training/sr_ste.cu"
_THREADS, _LAYERS = 256, 256  # of a block, of a launch: as in the kernels
_MOST_MEMBERS = 16  # of a group: a thread holds them in registers


class Work(Protocol):
    """What SR-STE does beside the network, without autograd."""

    def hide(self, copies: Sequence[Tensor]) -> None:
        """Choose the masks by magnitude; make of `copies`, one a layer, the weights as masked."""

    def decay(self, rate: float) -> None:
        """Add `rate` times the weight to the gradients of the weights that are left out."""


def work_on(layers: SparseLayers) -> Work:
    """The fastest that runs here; all give the same numbers."""
    return CudaWork(layers) if _runs(layers) else TorchWork(layers)


def _runs(layers: SparseLayers) -> bool:
    flat = layers.flat
    return (
        flat.is_cuda
        and torch.version.hip is None
        and torch.cuda.get_device_capability(flat.device) >= (8, 0)  # rounds to bf16
        and layers.kept_of_group[1] <= _MOST_MEMBERS
        and flat.numel() < 2**31
        and nvrtc.missing() is None
    )


class TorchWork:
    """A few operations over the flat buffers."""

    def __init__(self, layers: SparseLayers) -> None:
        self._layers = layers

    def hide(self, copies: Sequence[Tensor]) -> None:
        layers = self._layers
        layers.choose(layers.flat.abs(), layers.kept_of_group[0])
        for copy, mask in zip(copies, layers.masks, strict=True):
            copy.detach().mul_(mask)  # detached: the gradient goes straight through

    def decay(self, rate: float) -> None:
        layers = self._layers
        left_out = layers.views(layers.flat.masked_fill(layers.mask, 0))
        pairs = [
            (parameter.grad, weight)
            for parameter, weight in zip(layers.parameters, left_out, strict=True)
            if parameter.grad is not None
        ]
        if pairs:
            gradients, weights = zip(*pairs, strict=True)
            torch._foreach_add_(gradients, weights, alpha=rate)


class _Tensors(ctypes.Structure):
    """The kernels' `struct Tensors`."""

    _fields_ = [("of", ctypes.c_void_p * _LAYERS)]


class CudaWork:
    """One launch for all layers (for every 256 of them)."""

    def __init__(self, layers: SparseLayers) -> None:
        self._layers, self._torch = layers, TorchWork(layers)
        self._kept, m = layers.kept_of_group
        device = layers.flat.device
        self._module = nvrtc.load(_FILE, options=(f"-DM={m}",), device=device.index)
        self._launches = [
            (slice(begin, begin + _LAYERS), work_list(layers, begin, m).to(device))
            for begin in range(0, len(layers.parameters), _LAYERS)
        ]

    def hide(self, copies: Sequence[Tensor]) -> None:
        layers = self._layers
        dtype = str(copies[0].dtype).removeprefix("torch.")
        kernel = self._module.kernel(f"hide_{dtype}")
        for chosen, blocks in self._launches:
            pointers = _pointers(copies[chosen])
            kernel.launch(len(blocks), _THREADS,
                          [layers.flat, layers.mask, blocks, self._kept, pointers])  # fmt: skip

    def decay(self, rate: float) -> None:
        layers = self._layers
        gradients = [parameter.grad for parameter in layers.parameters]
        if not all(map(layers.in_order, gradients)):
            self._torch.decay(rate)
            return
        kernel = self._module.kernel("decay")
        for chosen, blocks in self._launches:
            pointers = _pointers(gradients[chosen])
            kernel.launch(len(blocks), _THREADS,
                          [layers.flat, layers.mask, blocks, rate, pointers])  # fmt: skip


def _pointers(tensors: Sequence[Tensor | None]) -> _Tensors:
    return _Tensors(tuple(None if t is None else t.data_ptr() for t in tensors))


def work_list(layers: SparseLayers, begin: int, m: int) -> Tensor:
    """Rows of the kernels' `struct Work`, one a block, for up to 256 layers from `begin` on."""
    step = _THREADS * (16 // m)
    rows = []
    for i, layer in enumerate(layers.places[begin : begin + _LAYERS]):
        groups = layer.size // m
        for first in range(0, groups, step):
            rows.append((i, layer.begin, layer.stride, first, min(first + step, groups)))
    return torch.tensor(rows, dtype=torch.int32)

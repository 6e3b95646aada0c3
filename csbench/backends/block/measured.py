"""A block-sparse layer on a GPU whose tile is chosen by measurement, whatever kernel runs it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from csbench.backends.base import Inside, LoweredConv, Run, alike, as_it_is
from csbench.backends.dense.algorithms import TORCH_DTYPE, sample
from csbench.core.case import Case
from csbench.graph.program import Conv
from csbench.kernels import search

ACTIVATIONS = {"none": 0, "relu": 1, "relu6": 2}


class MeasuredLayer(ABC):
    """A packed layer on the device, and how to launch it with any of its tiles.

    Layers of one `signature` take the same time with the same tile.
    """

    kernel: ClassVar[str]  # the source's name, for reports
    signature: Hashable
    tiles: Mapping[str, Any]  # those worth timing, by name

    def __init__(self, conv: Conv, case: Case) -> None:
        self.dtype = TORCH_DTYPE[case.dtype]
        self.output_size = conv.output_size
        self.positions = case.batch * conv.output_size[1] * conv.output_size[2]

    @staticmethod
    @abstractmethod
    def why_not(conv: Conv, case: Case) -> str | None:
        """The reason this layer cannot run on this kernel; None when it can."""

    @staticmethod
    @abstractmethod
    def digest() -> str:
        """Changes with the kernel's source: for keys of choices measured with it."""

    @staticmethod
    @abstractmethod
    def compile_all(tiles: Iterable[Any]) -> None:
        """Compile what is not kept yet, several at a time."""

    @abstractmethod
    def launch(self, tile: Any, x: Tensor, residual: Tensor | None, y: Tensor) -> None:
        """Launch on x, residual and y in channels-last memory."""

    @property
    @abstractmethod
    def bytes(self) -> int:
        """Values and indices as held on the device."""

    def settle(self, name: str) -> None:
        """Let go of what no tile but the one of this name needs."""
        self.tiles = {name: self.tiles[name]}

    def run(self, tile: Any, x: Tensor, residual: Tensor | None = None) -> Tensor:
        x = self.ready(x)
        if residual is not None:
            residual = self.ready(residual)
        y = torch.empty(
            (x.shape[0], *self.output_size), dtype=self.dtype, device=x.device,
            memory_format=torch.channels_last,
        )  # fmt: skip
        self.launch(tile, x, residual, y)
        return y

    def ready(self, x: Tensor) -> Tensor:
        """Channels last, at an address that can be copied 16 bytes at a time."""
        x = x.to(self.dtype).contiguous(memory_format=torch.channels_last)
        return x.clone() if x.data_ptr() % 16 else x

    def following(self, chosen: Mapping[Hashable, str]) -> Run:
        """A callable that runs whatever tile `chosen` names for this layer at that moment."""

        def run(x: Tensor, residual: Tensor | None = None) -> Tensor:
            return self.run(self.tiles[chosen[self.signature]], x, residual)

        return run

    def ranked(
        self, conv: Conv, case: Case, prepare: Callable[[], object] | None = None
    ) -> list[str]:
        """The names of the tiles from fast to slow, each timed alone.

        `prepare` compiles them; by default this layer's only.
        """
        x, residual = sample(conv, case, "NHWC")
        runs = {name: partial(self.run, tile, x, residual) for name, tile in self.tiles.items()}
        key = (self.kernel, self.digest(), self.signature, case.batch)
        return search.ranking(runs, key, prepare or partial(self.compile_all, self.tiles.values()))


def lower(conv: Conv, case: Case, kernel: type[MeasuredLayer]) -> LoweredConv:
    """Pack the weight, choose a tile by measurement, and bind it."""
    layer = kernel(conv, case)
    chosen = {layer.signature: layer.ranked(conv, case)[0]}
    layer.settle(chosen[layer.signature])
    inside = Inside(alike(layer.ready), layer.following(chosen), as_it_is)
    return LoweredConv(
        run=inside,
        inside=inside,
        weight_bytes=layer.bytes,
        algorithm=f"{kernel.kernel}, {chosen[layer.signature]}",
    )

"""One layer with packed weights on the latency kernels, and which of its plans are fast."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from torch import Tensor

from csbench.backends.cs.latency_layer import Kernelized
from csbench.backends.vector.units import in_runs
from csbench.errors import BackendError
from csbench.kernels import nvrtc, search
from csbench.kernels.latency import io, launch
from csbench.kernels.latency import plan as plans
from csbench.kernels.latency.io import Planes
from csbench.kernels.latency.pack import Order, Packed, pack_weights
from csbench.kernels.latency.vectors import Vectors, pack_vectors

ALTERNATIVES = 5  # of the plans that are fast alone, tried again in a network


@dataclass(frozen=True, eq=False)
class Prepared:
    """A layer with packed weights, and the orders and scales of what it reads and writes."""

    layer: Kernelized
    packed: Packed | Vectors
    order: Order
    out_order: Order | None  # None: a float tensor with channels as they come
    split: bool
    out_scale: float
    made: dict[str, launch.Convolution] = field(default_factory=dict)

    def convolution(self, name: str) -> launch.Convolution:
        """The layer under the plan of that name."""
        if name not in self.made:
            layer = self.layer
            self.made[name] = launch.Convolution(
                layer.shape, self.packed, layer.m, self.ways[name], self.split,
                layer.conv.activation, self.out_order is None,
            )  # fmt: skip
        return self.made[name]

    def keep(self, *names: str) -> None:
        """Let go of what other plans hold on the device."""
        for other in self.made.keys() - {*names}:
            del self.made[other]
        if isinstance(self.packed, Vectors):
            self.packed.keep([self.ways[name] for name in names])
        else:
            self.packed.keep({self.ways[name].tile.rows for name in names})

    @cached_property
    def ways(self) -> dict[str, plans.Plan]:
        """The plans worth measuring, by name; raises BackendError where there is none."""
        most = self.packed.most if isinstance(self.packed, Vectors) else None
        found = plans.candidates(self.layer.shape, self.order, self.layer.m, self.split, most)
        if not found:
            described = self.layer.conv.describe()
            raise BackendError(f"no tile of the latency kernels fits {described}")
        return {str(plan): plan for plan in found}

    @property
    def signature(self) -> tuple[Hashable, ...]:
        """Everything that decides the layer's time: where groups lie does not."""
        kept: Hashable = self.layer.m
        order = (self.order.channels, self.order.m)
        if isinstance(self.packed, Vectors):
            kept = "vectors", round(self.packed.units.density, 3), tuple(self.ways)
            if in_runs(self.layer.conv):  # which take fewer records
                kept = (*kept, "in runs")
            elif self.packed.rows_together:
                kept = (*kept, "rows together")
        floats = self.out_order is None
        return self.layer.shape, order, kept, self.split, self._adds, floats

    @property
    def sources(self) -> tuple[str, ...]:
        """The files that decide how fast its plans are."""
        own = ("latency/vectors.py", "latency/deal.py") if isinstance(self.packed, Vectors) else ()
        return "latency/conv.cu", *own

    @property
    def _adds(self) -> bool:
        return self.layer.conv.residual and self.out_order is not None

    def output(self) -> Planes | Tensor:
        """Room for the result; nothing is written."""
        s, device = self.layer.shape, self.packed.scale.device
        size = (s.images, s.out_height, s.out_width)
        if self.out_order is None:
            return torch.empty((*size, s.rows), device=device)
        return Planes.empty(self.split, *size, self.out_order, self.out_scale, device)

    def ranked(self) -> list[str]:
        """The plans from fast to slow, each timed alone on random activations; remembered."""
        s = self.layer.shape
        x, residual = self.random_input(), None
        if self._adds and self.out_order is not None:
            residual = self._random(s.out_height, s.out_width, self.out_order)
        runs = {name: partial(self._once, name, x, residual) for name in self.ways}
        plain = self.out_order is None
        jobs = [
            ("latency/conv.cu", launch.kernel_options(plan, self.split, self.layer.m, plain))
            for plan in self.ways.values()
        ]
        key = ("cs latency", nvrtc.digest(*self.sources), *self.signature)
        return search.ranking(runs, key, partial(nvrtc.compile_all, jobs))

    def alternatives(self) -> list[str]:
        """The plans worth trying in a network: the fastest alone, and the fastest of each number
        of threads, for between other kernels more threads wait better than alone."""
        names = self.ranked()
        fastest = {self.ways[name].tile.threads: name for name in reversed(names)}
        return [n for i, n in enumerate(names) if i < ALTERNATIVES or n in fastest.values()]

    def random_input(self) -> Planes:
        """Activations to time plans on."""
        return self._random(self.layer.shape.height, self.layer.shape.width, self.order)

    def _once(self, name: str, x: Planes, residual: Planes | None) -> None:
        self.convolution(name).launch(x, self.output(), residual)

    def _random(self, height: int, width: int, order: Order) -> Planes:
        size = (self.layer.shape.images, order.channels, height, width)
        return io.pack(torch.randn(size, device=self.packed.scale.device), self.split, order)


def prepare(
    layer: Kernelized, split: bool, order: Order, out_order: Order | None,
    scales: tuple[float, float], device: str,
) -> Prepared:  # fmt: skip
    """Pack the weights of a layer for the orders and (input, output) scales around it."""
    packed: Packed | Vectors
    if layer.units is not None:
        packed = pack_vectors(
            layer.units, layer.conv.bias, split, device, x_scale=scales[0], order=order,
            out_order=out_order,
        )  # fmt: skip
    else:
        packed = pack_weights(
            layer.weight, layer.conv.bias, layer.m, split, device, x_scale=scales[0], order=order,
            out_order=out_order,
        )  # fmt: skip
    return Prepared(layer, packed, order, out_order, split, scales[1])

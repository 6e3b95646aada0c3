"""What a case is about: a whole network or one layer, its inputs, and its exact result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from msgspec.structs import replace
from torch import Tensor

from csbench.backends.base import Backend, Inside, LoweredConv
from csbench.bench.capture import Inputs, Replay
from csbench.bench.check import Reference
from csbench.bench.limits import Ceilings, floor_ms
from csbench.bench.network import lower_layer, lower_network
from csbench.bench.traffic import activation_bytes
from csbench.bench.weights import Weights
from csbench.core.case import Case
from csbench.core.record import LayerReport
from csbench.errors import UsageError, unknown
from csbench.graph import reference
from csbench.graph.program import Conv

# Inputs that rotate under the timed runs; large batches hold few, their inputs fill a cache anyway.
_ROTATING, _ROTATING_LARGE, _LARGE = 4, 2, 16

# Of a layer alone, as it stands inside a network.
_INSIDE = "its activations are in the layout of this backend's networks, before and after"


@dataclass(frozen=True, eq=False)
class Lowered:
    """A subject made ready by one backend; of a layer, what stands inside a network, if known."""

    run: Callable[..., Tensor]
    layers: tuple[LayerReport, ...]
    inside: Inside | None = None


class Subject:
    """The network of `weights`, or its convolution named by the case, on the case's device."""

    def __init__(self, weights: Weights, case: Case) -> None:
        self.weights, self.case = weights, case
        self.conv = _named(weights, case.layer) if case.task == "layer" else None
        exact = self._exact_network if self.conv is None else self._exact_layer
        self.reference = Reference(exact, self._draw, case.dtype, torch.device(case.device))

    @property
    def convolutions(self) -> tuple[Conv, ...]:
        return self.weights.program.convolutions if self.conv is None else (self.conv,)

    def lower(self, backend: Backend, fallback: Backend, case: Case) -> Lowered:
        """The subject as one callable of a backend; raises BackendError where it cannot be."""
        if self.conv is not None:
            run, layer = lower_layer(self.conv, backend, fallback, case)
            inside = run.inside if isinstance(run, LoweredConv) else None
            if inside is not None:
                layer = replace(layer, note=_INSIDE)
            return Lowered(run, self.weights.explain((layer,)), inside)
        network = lower_network(self.weights.program, backend, fallback, case)
        return Lowered(network.run, self.weights.explain(network.layers))

    def replay(self, lowered: Lowered, seed: int) -> Replay:
        """The callable on rotating inputs, as it is timed."""
        count = _ROTATING if self.case.batch < _LARGE else _ROTATING_LARGE
        inputs = [self.reference.inputs(seed + 1000 + i) for i in range(count)]
        return Replay(lowered.run, inputs, lowered.inside)

    def with_floors(
        self, layers: tuple[LayerReport, ...], known: Ceilings
    ) -> tuple[LayerReport, ...]:
        """The reports with the time that the ceilings allow each layer at best.

        FLOPs are counted here, not by the backend: the physical floor rests on them.
        """
        convs = {conv.name: conv for conv in self.convolutions}
        counted = [replace(layer, flops=self._flops(convs[layer.name], layer)) for layer in layers]
        return tuple(
            replace(
                layer,
                floor_ms=floor_ms(
                    layer.flops,
                    layer.bytes + activation_bytes(convs[layer.name], self.case),
                    self.case.dtype,
                    known,
                ),
            )
            for layer in counted
        )

    def _flops(self, conv: Conv, layer: LayerReport) -> int:
        """What a layer did; a dense run multiplies the zeros too."""
        each = conv.sparse_flops if layer.ran == "sparse" else conv.dense_flops
        return self.case.batch * each

    def _exact_network(self, inputs: Inputs, dtype: torch.dtype) -> Tensor:
        return reference.run(self.weights.program, inputs[0], dtype)

    def _exact_layer(self, inputs: Inputs, dtype: torch.dtype) -> Tensor:
        assert self.conv is not None
        return reference.convolution(self.conv, *inputs, dtype=dtype)

    def _draw(self, seed: int) -> Inputs:
        sizes = [self.case.input if self.conv is None else self.conv.input_size]
        if self.conv is not None and self.conv.residual:
            sizes.append(self.conv.output_size)
        return _normal(seed, tuple((self.case.batch, *size) for size in sizes))


@lru_cache(maxsize=8)
def _normal(seed: int, sizes: tuple[tuple[int, ...], ...]) -> Inputs:
    """Standard normal numbers, for reading only: the cases of a suite draw the same again and
    again, which at a large batch takes longer than it takes to time them."""
    draw = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(size, generator=draw) for size in sizes)


def _named(weights: Weights, name: str | None) -> Conv:
    for conv in weights.program.convolutions:
        if conv.name == name:
            return conv
    known = [conv.name for conv in weights.program.convolutions]
    raise UsageError(unknown(f"layer of {weights.program.model}", str(name), known))

"""The boundary that every backend implements: can it run this layer, and a callable that does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from csbench.core.case import Case
from csbench.core.record import LayerReport
from csbench.graph.program import Conv, Program

Run = Callable[..., Tensor]

# The type of activations in each precision; TF32 is float32 in memory.
TORCH_DTYPE = {
    "fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Inside:
    """A layer as it stands inside its backend's networks, between activations of their layout.

    With `own = enter(x, residual)` the layer between torch tensors is `leave(run(*own), *own)`.
    `enter` converts and scales, no more: the benchmark of a layer by itself times `run`. What
    `enter` and `run` give is tensors, also in tuples and dataclasses; `run` gives new ones only.
    """

    enter: Callable[..., tuple[Any, ...]]
    run: Callable[..., Any]
    leave: Callable[..., Tensor]

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        own = self.enter(x, residual)
        return self.leave(self.run(*own), *own)


def alike(convert: Callable[[Tensor], Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    """`enter` of a layer that converts x and residual in the same way."""

    def enter(x: Tensor, residual: Tensor | None = None) -> tuple[Tensor, ...]:
        return tuple(convert(t) for t in (x, residual) if t is not None)

    return enter


def as_it_is(out: Tensor, *own: object) -> Tensor:
    """`leave` of a layer whose results are torch tensors already."""
    return out


@dataclass(frozen=True, eq=False)
class LoweredConv:
    """A fused convolution ready to run: `(x, residual=None) -> Tensor`, and what it holds.

    x is logically NCHW and may come contiguous or channels_last; so may the result. The result is
    allocated by torch.empty in the call, on torch's current stream, and nothing is remembered
    between calls.
    """

    run: Run
    weight_bytes: int = 0  # values and indices as stored
    workspace_bytes: int = 0
    algorithm: str | None = None
    ran_dense: str | None = None  # why a sparse layer is multiplied with its zeros after all
    inside: Inside | None = None  # where a network of the backend keeps a layout of its own

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return self.run(x) if residual is None else self.run(x, residual)


@dataclass(frozen=True, eq=False)
class LoweredNetwork:
    """A whole network ready to run: `(x) -> Tensor`, and per layer what it does."""

    run: Callable[[Tensor], Tensor]
    layers: tuple[LayerReport, ...]

    def __call__(self, x: Tensor) -> Tensor:
        return self.run(x)


class Backend(Protocol):
    """One way to execute fused convolutions.

    `patterns` are names of csbench.core.pattern; a dense backend lists "dense" and runs any weight
    densely. `devices` are "cpu" and "cuda"; `dtypes` are those of csbench.core.case.DTYPES. What
    runs fewer of them on one device has `device_dtypes = {"cpu": frozenset({"fp32"})}`.
    """

    name: str
    patterns: frozenset[str]
    devices: frozenset[str]
    dtypes: frozenset[str]

    def missing(self, device: str) -> str | None:
        """What this machine lacks to run it on `device`, and how to get it; None when ready."""

    def why_not(self, conv: Conv, case: Case) -> str | None:
        """One sentence: the reason this layer cannot run here; None when it can."""

    def lower(self, conv: Conv, case: Case) -> Run:
        """A callable equal to the fused convolution; compiling, packing and searching happen here.

        The callable is best a LoweredConv, so that bytes and the chosen algorithm are recorded.
        """


@runtime_checkable
class NetworkBackend(Protocol):
    """A backend that has a path of its own for a whole network (own layouts, merged kernels)."""

    def lower_network(self, program: Program, case: Case) -> LoweredNetwork | None:
        """The whole network as one callable; None where convolution by convolution is better."""


def layer_report(
    conv: Conv, case: Case, size: int, algorithm: str | None, dense: str | None
) -> LayerReport:
    """What runs a layer and how many bytes its weights take.

    `dense` says why it runs with its zeros, where it does; its FLOPs then count them.
    """
    flops = conv.sparse_flops if dense is None else conv.dense_flops
    return LayerReport(
        name=conv.name, ran="sparse" if dense is None else "dense", reason=dense,
        bytes=size, flops=flops * case.batch, algorithm=algorithm,
    )  # fmt: skip

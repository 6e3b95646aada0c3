"""A program and a backend become one callable, with a report of what ran in every layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace
from torch import Tensor

from csbench.backends.base import (
    Backend,
    LoweredConv,
    LoweredNetwork,
    NetworkBackend,
    layer_report,
)
from csbench.backends.chain import chain
from csbench.backends.zeros import multiplies_zeros, network_multiplies_zeros
from csbench.core.case import Case
from csbench.core.record import LayerReport
from csbench.errors import BackendError
from csbench.graph.program import Conv, Program

_BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2}


def lower_network(
    program: Program, backend: Backend, fallback: Backend, case: Case
) -> LoweredNetwork:
    """The whole network by `backend`; layers that it cannot run go to `fallback`, and say why.

    A backend with a path of its own for whole networks takes it. Raises BackendError when neither
    can run a layer.
    """
    if isinstance(backend, NetworkBackend):
        whole = backend.lower_network(program, case)
        if whole is not None:
            whole = _complete(whole, program, backend)
            return whole if _is_ours(backend) else _tried(whole, program, backend, case)
    calls, reports = [], []
    for conv in program.convolutions:
        call, report = lower_layer(conv, backend, fallback, case)
        calls.append(call)
        reports.append(report)
    return LoweredNetwork(chain(program, calls), tuple(reports))


def lower_layer(
    conv: Conv, backend: Backend, fallback: Backend, case: Case
) -> tuple[Callable[..., Tensor], LayerReport]:
    """One convolution by `backend`, else densely by `fallback`; the report says which and why."""
    sparse = conv.pattern is not None and runs_sparse(backend, conv.pattern.name)
    takes = sparse or "dense" in backend.patterns
    refused = backend.why_not(conv, case) if takes else _dense_reason(conv, backend)
    chosen = backend if refused is None else fallback
    if refused is not None and (impossible := fallback.why_not(conv, case)) is not None:
        raise BackendError(f"{fallback.name} cannot run layer {conv.describe()}: {impossible}")
    reason = refused if sparse else refused or _dense_reason(conv, backend)
    call = chosen.lower(conv, case)
    if isinstance(call, LoweredConv) and not _is_ours(chosen):
        call = dataclasses.replace(call, inside=None)  # timed whole, whatever it does before `run`
    if reason is None and isinstance(call, LoweredConv):
        reason = call.ran_dense
    if reason is None and not _is_ours(backend) and multiplies_zeros(call, conv, case):
        reason = _caught(backend)
    return call, report(conv, call, case, reason)


def _tried(whole: LoweredNetwork, program: Program, backend: Backend, case: Case) -> LoweredNetwork:
    """Layers that multiply their zeros are dense, whatever a whole-network path says of them.

    One layer of each window size is tried for all of them.
    """
    assert isinstance(backend, NetworkBackend)
    convs = {conv.name: conv for conv in program.convolutions}
    dense: dict[tuple[int, ...], bool] = {}
    layers = []
    for layer in whole.layers:
        if layer.ran == "sparse" and layer.name in convs:
            conv = convs[layer.name]
            window = tuple(conv.weight.shape[2:])
            if window not in dense:
                dense[window] = network_multiplies_zeros(backend, conv, case)
            if dense[window]:
                layer = replace(layer, ran="dense", reason=_caught(backend))
        layers.append(layer)
    return LoweredNetwork(whole.run, tuple(layers))


def _caught(backend: Backend) -> str:
    return f"{backend.name} multiplies zeros like any number, though it says otherwise"


def _is_ours(backend: Backend) -> bool:
    """Our own kernels are proved by their tests; what others bring is tried before it is called
    sparse."""
    return type(backend).__module__.startswith("csbench.")


def runs_sparse(backend: Backend, pattern: str) -> bool:
    """Whether a backend leaves out the zeros of a pattern; a dense one multiplies them."""
    return pattern != "dense" and pattern in backend.patterns


def report(conv: Conv, call: Any, case: Case, reason: str | None) -> LayerReport:
    """What ran in a layer; the FLOPs of a dense run count the zeros too."""
    lowered = call if isinstance(call, LoweredConv) else None
    dense_bytes = conv.weight.numel() * _BYTES[case.dtype]
    size = (lowered.weight_bytes if lowered else 0) or dense_bytes
    return layer_report(conv, case, size, lowered.algorithm if lowered else None, reason)


def _dense_reason(conv: Conv, backend: Backend) -> str:
    if conv.pattern is None:
        return "it carries no pattern"
    return f"{backend.name} multiplies zeros like any number"


def _complete(whole: LoweredNetwork, program: Program, backend: Backend) -> LoweredNetwork:
    """Insist that a whole-network path accounts for every layer: nothing falls back unnoticed."""
    named = {layer.name for layer in whole.layers}
    missing = [conv.name for conv in program.convolutions if conv.name not in named]
    if missing:
        raise BackendError(
            f"{backend.name} does not say what ran in {len(missing)} layers: "
            f"{', '.join(missing[:3])}"
        )
    return whole

"""A whole network by one kernel: each layer's tile is chosen inside the network, not alone."""

from __future__ import annotations

from collections.abc import Hashable

from csbench.backends.base import LoweredConv, LoweredNetwork
from csbench.backends.block.measured import MeasuredLayer
from csbench.backends.chain import chain
from csbench.backends.dense.algorithms import normal
from csbench.backends.dense.cudnn import Cudnn
from csbench.core.case import Case
from csbench.core.record import LayerReport
from csbench.graph.program import Conv, Program
from csbench.kernels import search

ALTERNATIVES = 4  # of each layer's tiles alone, tried again in the network


def lower_network(program: Program, case: Case, kernel: type[MeasuredLayer]) -> LoweredNetwork:
    """Layers that carry blocks by the kernel, the others by the dense baseline, and why."""
    layers: list[MeasuredLayer | LoweredConv] = []
    reasons: list[str | None] = []
    ranked: dict[Hashable, list[str]] = {}
    for conv in program.convolutions:
        reasons.append(_why_dense(conv, case, kernel))
        if reasons[-1] is not None:
            layers.append(Cudnn().lower(conv, case))
            continue
        layer = kernel(conv, case)
        layers.append(layer)
        if layer.signature not in ranked:
            ranked[layer.signature] = layer.ranked(conv, case)[:ALTERNATIVES]
    chosen = {signature: names[0] for signature, names in ranked.items()}
    own = [layer for layer in layers if isinstance(layer, MeasuredLayer)]
    run = chain(
        program, [a.following(chosen) if isinstance(a, MeasuredLayer) else a for a in layers]
    )
    x = normal(program.input_size, case, "NCHW")
    key = (f"{kernel.kernel} in a network", kernel.digest(), program.model, case.batch, case.dtype)
    search.in_context(lambda: run(x), chosen, ranked, key)
    for layer in own:
        layer.settle(chosen[layer.signature])
    reports = tuple(
        _report(conv, layer, reason, chosen, case.batch)
        for conv, layer, reason in zip(program.convolutions, layers, reasons, strict=True)
    )
    return LoweredNetwork(run=run, layers=reports)


def _report(
    conv: Conv, layer: MeasuredLayer | LoweredConv, reason: str | None,
    chosen: dict[Hashable, str], batch: int,
) -> LayerReport:  # fmt: skip
    if isinstance(layer, MeasuredLayer):
        return LayerReport(
            name=conv.name, ran="sparse", bytes=layer.bytes, flops=batch * conv.sparse_flops,
            algorithm=f"{layer.kernel}, {chosen[layer.signature]}",
        )  # fmt: skip
    return LayerReport(
        name=conv.name, ran="dense", reason=reason, bytes=layer.weight_bytes,
        flops=batch * conv.dense_flops, algorithm=layer.algorithm,
    )  # fmt: skip


def _why_dense(conv: Conv, case: Case, kernel: type[MeasuredLayer]) -> str | None:
    return "it carries no pattern" if conv.pattern is None else kernel.why_not(conv, case)

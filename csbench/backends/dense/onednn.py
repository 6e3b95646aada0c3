"""`onednn`: the strongest dense version of a network on a CPU, the baseline of every speed-up.

torch's own conv2d reorders its weights and adds the epilogue in passes of their own; oneDNN's
fused operators (those that torch.compile emits) with weights reordered once are a third faster on
ResNet50. docs/kernels/cpu.md has the ways that were compared.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from csbench.backends.base import (
    TORCH_DTYPE,
    Inside,
    LoweredConv,
    LoweredNetwork,
    alike,
    as_it_is,
)
from csbench.backends.cpu.timing import fastest
from csbench.core.case import Case
from csbench.core.record import LayerReport
from csbench.graph.program import Conv, Program

UNARY = {"none": ("none", []), "relu": ("relu", []), "relu6": ("hardtanh", [0.0, 6.0])}
LAYOUTS = {"NHWC": torch.channels_last, "NCHW": torch.contiguous_format}
_PROBES = {"bf16": "_is_mkldnn_bf16_supported", "fp16": "_is_mkldnn_fp16_supported"}


class OneDnn:
    """Dense convolutions by oneDNN with bias, residual and activation fused."""

    name = "onednn"
    patterns = frozenset({"dense"})
    devices = frozenset({"cpu"})

    def __init__(self) -> None:
        self.dtypes = frozenset(d for d in ("fp32", "bf16", "fp16") if _supported(d))

    def missing(self, device: str) -> str | None:
        if device.partition(":")[0] != "cpu":
            return "oneDNN runs on CPUs; on a GPU the dense backend is cudnn"
        if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            return "this torch is built without oneDNN; install a torch wheel from pytorch.org"
        return None

    def why_not(self, conv: Conv, case: Case) -> str | None:
        if case.dtype not in self.dtypes:
            return f"onednn runs {', '.join(sorted(self.dtypes))} on this CPU, not {case.dtype}"
        return None

    def lower(self, conv: Conv, case: Case) -> LoweredConv:
        """x in any layout; inside it has the one that is faster for this layer."""
        layer, kind = _Layer(conv, case), TORCH_DTYPE[case.dtype]
        sizes = [conv.input_size, *([conv.output_size] if conv.residual else [])]
        given = [torch.randn(case.batch, *size).to(kind) for size in sizes]
        enter = {
            name: alike(partial(Tensor.contiguous, memory_format=memory))
            for name, memory in LAYOUTS.items()
        }
        own = {name: convert(*given) for name, convert in enter.items()}
        chosen = fastest({name: partial(layer, *inputs) for name, inputs in own.items()})
        return LoweredConv(
            run=layer, weight_bytes=layer.bytes, inside=Inside(enter[chosen], layer, as_it_is),
            algorithm=f"oneDNN fused, weights reordered once, {chosen}",
        )  # fmt: skip

    def lower_network(self, program: Program, case: Case) -> LoweredNetwork:
        """Every layer fused, a residual that nobody else reads added in place; the best layout."""
        network = _Network(program, case)
        x = torch.randn(case.batch, *program.input_size).to(TORCH_DTYPE[case.dtype])
        runs = {name: _in_layout(network, memory) for name, memory in LAYOUTS.items()}
        chosen = fastest({name: partial(run, x) for name, run in runs.items()})
        reports = tuple(
            LayerReport(
                name=layer.conv.name, ran="dense", bytes=layer.bytes,
                flops=layer.conv.dense_flops * case.batch, algorithm=f"oneDNN fused, {chosen}",
            )
            for layer in network.layers.values()
        )  # fmt: skip
        return LoweredNetwork(run=runs[chosen], layers=reports)


class _Layer:
    """One convolution with its weight in the order that oneDNN wants."""

    def __init__(self, conv: Conv, case: Case) -> None:
        self.conv, kind = conv, TORCH_DTYPE[case.dtype]
        weight = conv.weight.to(kind)
        self.bytes = weight.numel() * weight.element_size()
        self.bias = conv.bias.to(kind)
        self.geometry = (
            list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups
        )  # fmt: skip
        size = [case.batch, *conv.input_size]
        self.weight = _reorder(weight.to_mkldnn(), *self.geometry, size)
        self.kind, self.unary = kind, UNARY[conv.activation]

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        attribute, scalars = self.unary
        arguments = (self.weight, self.bias, *self.geometry)
        x = x.to(self.kind)
        if residual is None:
            return _convolve(x, *arguments, attribute, scalars, "")
        if self.conv.activation == "relu6":  # no such pair of epilogues
            y = _convolve_add(x, residual, *arguments, "add", 1.0, None, [], None)
            return y.clamp_(0, 6)
        unary = None if attribute == "none" else attribute
        return _convolve_add(x, residual, *arguments, "add", 1.0, unary, [], None)

    def into(self, x: Tensor, residual: Tensor) -> Tensor:
        """The same, written over the residual."""
        attribute, scalars = self.unary
        unary = None if attribute == "none" else attribute
        return _convolve_into(
            residual, x.to(self.kind), self.weight, self.bias, *self.geometry, "add", 1.0, unary,
            scalars, None,
        )  # fmt: skip


class _Network:
    """A program with every convolution lowered; values are freed after their last use."""

    def __init__(self, program: Program, case: Case) -> None:
        self.program, self.case = program, case
        self.layers = {id(conv): _Layer(conv, case) for conv in program.convolutions}
        last_use = program.last_use()
        made = {s.output for s in program.steps if isinstance(s.op, Conv)}
        # A view of a value (flatten, a slice) may outlive it: those are not written over.
        made -= {n for s in program.steps if not isinstance(s.op, Conv) for n in s.inputs}
        self.steps = []
        for i, step in enumerate(program.steps):
            dead = [n for n in set(step.inputs) if last_use[n] == i]
            run: Callable[..., Any] = step.op  # type: ignore[assignment]
            if isinstance(step.op, Conv):
                layer = self.layers[id(step.op)]
                alone = step.op.residual and step.inputs[1] in dead and step.inputs[1] in made
                alone = alone and step.inputs[0] != step.inputs[1]
                run = layer.into if alone and step.op.activation != "relu6" else layer
            self.steps.append((run, step.inputs, step.output, dead))

    def __call__(self, x: Tensor) -> Tensor:
        values = {0: x}
        for run, inputs, output, dead in self.steps:
            values[output] = run(*[values[n] for n in inputs])
            for n in dead:
                del values[n]
        return values[self.program.result]


def _in_layout(network: _Network, memory: torch.memory_format) -> Callable[[Tensor], Tensor]:
    kind = TORCH_DTYPE[network.case.dtype]
    return lambda x: network(x.to(kind).contiguous(memory_format=memory))


@cache
def _supported(dtype: str) -> bool:
    probe = _PROBES.get(dtype)
    return probe is None or bool(getattr(torch.ops.mkldnn, probe)())


# torch.compile's own operators: convolution with an epilogue, and weights that keep their order.
_reorder: Callable[..., Tensor] = torch._C._nn.mkldnn_reorder_conv2d_weight
_convolve: Callable[..., Tensor] = torch.ops.mkldnn._convolution_pointwise.default
_convolve_add: Callable[..., Tensor] = torch.ops.mkldnn._convolution_pointwise.binary
_convolve_into: Callable[..., Tensor] = torch.ops.mkldnn._convolution_pointwise_.binary

"""`cudnn`: the strongest dense version of a network on a GPU, the baseline of every speed-up."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from functools import partial

import torch
from torch import Tensor

from csbench.backends.base import LoweredConv, LoweredNetwork
from csbench.backends.chain import chain
from csbench.backends.dense.algorithms import (
    FORMATS,
    TORCH_DTYPE,
    UNFOLDED,
    Algorithm,
    DenseConv,
    Layout,
    normal,
    precision,
    sample,
    unfolded_bytes,
)
from csbench.core.case import Case
from csbench.core.record import LayerReport
from csbench.graph.program import Conv, Program
from csbench.kernels import search

LAYOUTS: tuple[Layout, ...] = ("NCHW", "NHWC")
ALTERNATIVES = 3  # of each layer's algorithms alone, tried again in the network
MOST_UNFOLDED = 2**26  # bytes of copied windows; far beyond the caches a copy cannot pay


class Cudnn:
    """Dense convolutions by cuDNN and cuBLAS: algorithm and layout chosen by measurement."""

    name = "cudnn"
    patterns = frozenset({"dense"})
    devices = frozenset({"cuda"})
    dtypes = frozenset({"fp32", "tf32", "fp16", "bf16"})

    def missing(self, device: str) -> str | None:
        if not torch.cuda.is_available():
            return "no CUDA device; on a CPU the dense backend is onednn"
        return None

    def why_not(self, conv: Conv, case: Case) -> str | None:
        return None

    def lower(self, conv: Conv, case: Case) -> LoweredConv:
        """For each memory format that x may come in, the fastest layout, conversion included."""
        layers = {layout: _Layer(conv, case, layout).settled() for layout in LAYOUTS}
        best = {f: _fastest_layout(layers, conv, case, f) for f in LAYOUTS}

        def run(x: Tensor, residual: Tensor | None = None) -> Tensor:
            arrives: Layout = "NCHW" if x.is_contiguous() else "NHWC"
            return layers[best[arrives]].run(x, residual)

        used = [layers[layout] for layout in LAYOUTS if layout in best.values()]
        return LoweredConv(
            run=run,
            weight_bytes=layers["NHWC"].bytes,
            algorithm=", ".join(layer.label for layer in used),
        )

    def lower_network(self, program: Program, case: Case) -> LoweredNetwork:
        """The whole network in the faster layout, every layer by its fastest algorithm in it."""
        lightened = fold_biases(program)
        networks = {layout: _Network(lightened, case, layout) for layout in LAYOUTS}
        x = normal(program.input_size, case, "NCHW")
        layers = [network.layers for network in networks.values()]
        chosen = search.fastest(
            {layout: partial(network.run, x) for layout, network in networks.items()},
            key=("cudnn network", case.dtype, case.batch, [[a.key for a in b] for b in layers]),
        )
        network = networks[chosen]  # type: ignore[index]
        network.settle(x)
        reports = tuple(
            LayerReport(
                name=layer.conv.name, ran="dense", bytes=layer.bytes,
                flops=layer.conv.dense_flops * case.batch, algorithm=layer.label,
            )
            for layer in network.layers
        )  # fmt: skip
        return LoweredNetwork(run=network.run, layers=reports)


class _Layer:
    """One convolution between activations of one layout, by one of its algorithms.

    `chosen` holds the algorithm for every layer of the same key, the fastest at first.
    """

    def __init__(
        self, conv: Conv, case: Case, layout: Layout, chosen: dict[Hashable, str] | None = None
    ) -> None:
        self.conv, self.case, self.layout = conv, case, layout
        own = DenseConv(conv, case.dtype, case.device, layout)
        self.algorithms = {f"{name} {layout}": a for name, a in own.algorithms.items()}
        if tuple(conv.weight.shape[2:]) != (1, 1):
            other: Layout = "NCHW" if layout == "NHWC" else "NHWC"
            turned = DenseConv(conv, case.dtype, case.device, other)
            for name, algorithm in turned.algorithms.items():
                self.algorithms[f"{name} {other} turned"] = partial(
                    _turned, algorithm, layout, other
                )
        if unfolded_bytes(conv, case) > MOST_UNFOLDED:
            self.algorithms = {n: a for n, a in self.algorithms.items() if UNFOLDED not in n}
        self.bytes = own.weight.numel() * own.weight.element_size()
        shape = (tuple(conv.weight.shape), *own.shape, conv.input_size)
        self.key = (
            "cudnn", case.dtype, case.batch, layout, shape, conv.activation, conv.residual,
            own.bias is None,
        )  # fmt: skip
        x, residual = sample(conv, case, layout)
        with precision(case.dtype):
            self.ranked = search.ranking(
                {name: partial(a, x, residual) for name, a in self.algorithms.items()}, self.key
            )
            # cuDNN's own search happens at the first call: here, not in the first measurement.
            for name in self.ranked[:ALTERNATIVES]:
                self.algorithms[name](x, residual)
        self._chosen: dict[Hashable, str] = {} if chosen is None else chosen
        self._chosen.setdefault(self.key, self.ranked[0])

    @property
    def label(self) -> str:
        chosen = self._chosen[self.key]
        return f"{'cuBLAS' if chosen.startswith('gemm') else 'cuDNN'} {chosen}"

    def settled(self) -> _Layer:
        """Itself, holding no more weights than the chosen algorithm needs."""
        chosen = self._chosen[self.key]
        self.algorithms = {chosen: self.algorithms[chosen]}
        return self

    def run(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        kind, memory = TORCH_DTYPE[self.case.dtype], FORMATS[self.layout]
        x = x.to(kind).contiguous(memory_format=memory)
        if residual is not None:
            residual = residual.to(kind).contiguous(memory_format=memory)
        with precision(self.case.dtype):
            return self.algorithms[self._chosen[self.key]](x, residual)


def _turned(
    algorithm: Algorithm, outside: Layout, inside: Layout, x: Tensor, residual: Tensor | None
) -> Tensor:
    memory = FORMATS[inside]
    if residual is not None:
        residual = residual.contiguous(memory_format=memory)
    y = algorithm(x.contiguous(memory_format=memory), residual)
    return y.contiguous(memory_format=FORMATS[outside])


class _Network:
    """A program whose activations all keep one layout."""

    def __init__(self, program: Program, case: Case, layout: Layout) -> None:
        self._chosen: dict[Hashable, str] = {}
        self.layers = [_Layer(conv, case, layout, self._chosen) for conv in program.convolutions]
        self._case, self._format = case, FORMATS[layout]
        self._run = chain(program, [layer.run for layer in self.layers])

    def run(self, x: Tensor) -> Tensor:
        kind = TORCH_DTYPE[self._case.dtype]
        return self._run(x.to(kind).contiguous(memory_format=self._format))

    def settle(self, x: Tensor) -> None:
        """Choose again among the fastest algorithms of each layer, by the time of the network."""
        ranked = {layer.key: layer.ranked[:ALTERNATIVES] for layer in self.layers}
        key = ("cudnn in a network", [layer.key for layer in self.layers])
        search.in_context(partial(self.run, x), self._chosen, ranked, key)
        for layer in self.layers:
            layer.settled()


def fold_biases(program: Program) -> Program:
    """Move the bias of a layer that is only added to another (a shortcut) into that other layer.

    cuDNN has no epilogue for a bias without ReLU, so this saves a pass over the output.
    """
    uses = [value for step in program.steps for value in step.inputs] + [program.result]
    residuals = {s.inputs[1] for s in program.steps if isinstance(s.op, Conv) and s.op.residual}
    moved: dict[int, Tensor] = {}
    steps = []
    for step in program.steps:
        op = step.op
        if isinstance(op, Conv):
            if op.residual and step.inputs[1] in moved:
                op = dataclasses.replace(op, bias=op.bias + moved[step.inputs[1]])
            alone = op.activation == "none" and not op.residual
            if alone and step.output in residuals and uses.count(step.output) == 1:
                moved[step.output] = op.bias
                op = dataclasses.replace(op, bias=torch.zeros_like(op.bias))
        steps.append(dataclasses.replace(step, op=op))
    return dataclasses.replace(program, steps=tuple(steps))


def _fastest_layout(
    layers: dict[Layout, _Layer], conv: Conv, case: Case, arrives: Layout
) -> Layout:
    x, residual = sample(conv, case, arrives)
    chosen = search.fastest(
        {layout: partial(layer.run, x, residual) for layout, layer in layers.items()},
        key=("cudnn layout", arrives, layers["NCHW"].key, layers["NHWC"].key),
    )
    return "NCHW" if chosen == "NCHW" else "NHWC"

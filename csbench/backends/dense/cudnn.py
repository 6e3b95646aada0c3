"""`cudnn`: the strongest dense version of a network on a GPU, the baseline of every speed-up."""

from __future__ import annotations

import dataclasses
import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from csbench.backends.base import Inside, LoweredConv, LoweredNetwork, as_it_is
from csbench.backends.dense import algorithms
from csbench.backends.dense.algorithms import Layout, normal, sample
from csbench.backends.dense.cudnn_layer import Layer, Network, key_of
from csbench.core.case import Case
from csbench.core.record import LayerReport
from csbench.graph.program import Conv, Program
from csbench.kernels import search

LAYOUTS: tuple[Layout, ...] = ("NCHW", "NHWC")
INSIDE = "inside"  # a network, whose activations keep the layout that it is fastest in

Sample = tuple[Tensor, Tensor | None]  # of a layer's input and residual
Choice = tuple[Layout, str]  # a layout, and the name of an algorithm in it
# What was chosen among other algorithms is not asked for again.
_SOURCE = hashlib.sha256(Path(algorithms.__file__).read_bytes()).hexdigest()[:16]


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
        """For each memory format that x may come in, the fastest layout, conversion included.

        Inside is the layout that is fastest without one.
        """
        key = ("cudnn layer, its inside, one pixel once", _SOURCE, key_of(conv, case))
        answer = search.remembered(key, partial(_choose_layouts, conv, case))
        found: dict[str, Choice] = {f: (layout, name) for f, (layout, name) in answer.items()}
        # Each holds the weights: one for all that chose alike.
        choices = dict.fromkeys(found.values())
        made = {choice: Layer(conv, case, *choice).settled() for choice in choices}
        best = {f: made[choice] for f, choice in found.items()}
        own = best[INSIDE]

        def run(x: Tensor, residual: Tensor | None = None) -> Tensor:
            arrives: Layout = "NCHW" if x.is_contiguous() else "NHWC"
            return best[arrives].run(x, residual)

        return LoweredConv(
            run=run,
            weight_bytes=best["NHWC"].bytes,
            algorithm=", ".join(sorted({layer.label for layer in best.values()})),
            inside=Inside(own.ready, own.run, as_it_is),
        )

    def lower_network(self, program: Program, case: Case) -> LoweredNetwork:
        """The whole network in the faster layout, every layer by its fastest algorithm in it.

        And by the plan of cuDNN's that is fastest there, of those that it finds in this process.
        """
        lightened = fold_biases(program)
        key = ("cudnn network", _SOURCE, [key_of(conv, case) for conv in lightened.convolutions])
        found = search.remembered(key, partial(_choose_network, lightened, case))
        network = Network(lightened, case, found["layout"], found["algorithms"])
        network.choose_plans(normal(program.input_size, case, "NCHW"))
        network.settle()
        reports = tuple(
            LayerReport(
                name=layer.conv.name, ran="dense", bytes=layer.bytes,
                flops=layer.conv.dense_flops * case.batch, algorithm=layer.label,
            )
            for layer in network.layers
        )  # fmt: skip
        return LoweredNetwork(run=network.run, layers=reports)


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


def _choose_network(program: Program, case: Case) -> dict[str, Any]:
    """The faster layout of the whole network, and every layer's algorithm in it."""
    networks = {layout: Network(program, case, layout) for layout in LAYOUTS}
    x = normal(program.input_size, case, "NCHW")
    runs: dict[str, search.Run] = {a: partial(b.run, x) for a, b in networks.items()}
    layout = search.fastest(
        runs, ("cudnn layouts", [layer.key for layer in networks["NHWC"].layers])
    )
    network = networks["NCHW" if layout == "NCHW" else "NHWC"]
    network.choose_in_context(x)
    return {"layout": layout, "algorithms": [layer.chosen for layer in network.layers]}


def _choose_layouts(conv: Conv, case: Case) -> dict[str, Choice]:
    """For activations that come in each layout the fastest one, and its algorithm.

    And the fastest of both where activations come in its own. One pixel lies alike in both: where
    a layer reads and makes no more (a classifier), that is what runs, however x comes.
    """
    layers = {layout: Layer(conv, case, layout).settled() for layout in LAYOUTS}
    own = {layout: sample(conv, case, layout) for layout in LAYOUTS}
    given: dict[str, dict[Layout, Sample]] = {INSIDE: own}
    if {conv.input_size[1:], conv.output_size[1:]} != {(1, 1)}:
        given |= {arrives: dict.fromkeys(LAYOUTS, own[arrives]) for arrives in LAYOUTS}
    found: dict[str, Choice] = {}
    for arrives, inputs in given.items():
        runs: dict[str, search.Run] = {a: partial(b.run, *inputs[a]) for a, b in layers.items()}
        chosen = search.fastest(runs, ("cudnn layout", arrives, layers["NHWC"].key))
        layout: Layout = "NCHW" if chosen == "NCHW" else "NHWC"
        found[arrives] = layout, layers[layout].chosen
    return {**dict.fromkeys(LAYOUTS, found[INSIDE]), **found}

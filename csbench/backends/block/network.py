"""A whole network by one kernel: each layer's tile is chosen inside the network, not alone."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from csbench.backends.base import LoweredConv, LoweredNetwork, Run, layer_report
from csbench.backends.block import stem
from csbench.backends.block.measured import MeasuredLayer
from csbench.backends.chain import Call, in_turn
from csbench.backends.dense.algorithms import normal
from csbench.backends.dense.cudnn import Cudnn
from csbench.core.case import Case
from csbench.core.record import LayerReport
from csbench.graph.program import Conv, Program, Step
from csbench.kernels import search

ALTERNATIVES = 4  # of each layer's tiles alone, tried again in the network


@dataclass(frozen=True, eq=False)
class _Layer:
    """A convolution and what runs it; `dense` says why, where that is not the kernel."""

    conv: Conv
    made: MeasuredLayer | LoweredConv
    dense: str | None = None


def lower_network(program: Program, case: Case, kernel: type[MeasuredLayer]) -> LoweredNetwork:
    """Layers that carry blocks by the kernel, the others by the dense baseline, and why."""
    layers = [_lowered(conv, case, kernel) for conv in program.convolutions]
    steps, calls = list(program.steps), []
    first = layers[0].made if layers else None
    if isinstance(first, LoweredConv) and (start := stem.faster(program, case, first)) is not None:
        calls = [Call(start.run, steps[0].inputs, steps[1].output)]
        layers[0] = _Layer(layers[0].conv, start.layer, layers[0].dense)
        del steps[:2]
    ranked = _ranked(layers, case, kernel)
    chosen = {signature: names[0] for signature, names in ranked.items()}
    made = {layer.conv: layer.made for layer in layers}
    calls += _calls(steps, made, chosen)
    run = in_turn(calls, program.result)
    x = normal(program.input_size, case, "NCHW")
    others = [a.made.algorithm for a in layers if isinstance(a.made, LoweredConv)]
    key = (
        f"{kernel.kernel} in a network", kernel.digest(), program.model, case.batch, case.dtype,
        others,
    )  # fmt: skip
    search.in_context(lambda: run(x), chosen, ranked, key)
    for layer in layers:
        if isinstance(layer.made, MeasuredLayer):
            layer.made.settle(chosen[layer.made.signature])
    return LoweredNetwork(run, tuple(_report(layer, chosen, case) for layer in layers))


def _lowered(conv: Conv, case: Case, kernel: type[MeasuredLayer]) -> _Layer:
    dense = "it carries no pattern" if conv.pattern is None else kernel.why_not(conv, case)
    made = kernel(conv, case) if dense is None else Cudnn().lower(conv, case)
    return _Layer(conv, made, dense)


def _ranked(
    layers: list[_Layer], case: Case, kernel: type[MeasuredLayer]
) -> dict[Hashable, list[str]]:
    """The best tiles of each distinct layer alone; all are compiled before the first is timed."""
    own = {
        layer.made.signature: (layer.conv, layer.made)
        for layer in reversed(layers)
        if isinstance(layer.made, MeasuredLayer)
    }
    every = {tile for _, made in own.values() for tile in made.tiles.values()}
    compile_all = partial(kernel.compile_all, every)
    return {
        signature: made.ranked(conv, case, compile_all)[:ALTERNATIVES]
        for signature, (conv, made) in reversed(own.items())
    }


def _calls(
    steps: list[Step], made: dict[Conv, MeasuredLayer | LoweredConv], chosen: dict[Hashable, str]
) -> list[Call]:
    """The steps in turn; what else makes a value that the kernel reads lays it out once for all."""
    found = [made[step.op] if isinstance(step.op, Conv) else step.op for step in steps]
    read = {
        value
        for step, run in zip(steps, found, strict=True)
        if isinstance(run, MeasuredLayer)
        for value in step.inputs
    }
    calls = []
    for step, run in zip(steps, found, strict=True):
        if isinstance(run, MeasuredLayer):
            run = run.following(chosen)
        elif step.output in read:
            run = partial(_channels_last, run)
        calls.append(Call(run, step.inputs, step.output))
    return calls


def _channels_last(run: Run, *inputs: Tensor) -> Tensor:
    y = run(*inputs)
    return y.contiguous(memory_format=torch.channels_last) if y.dim() == 4 else y


def _report(layer: _Layer, chosen: dict[Hashable, str], case: Case) -> LayerReport:
    conv, made = layer.conv, layer.made
    if isinstance(made, MeasuredLayer):
        algorithm = f"{made.kernel}, {chosen[made.signature]}"
        return layer_report(conv, case, made.bytes, algorithm, None)
    return layer_report(conv, case, made.weight_bytes, made.algorithm, layer.dense)

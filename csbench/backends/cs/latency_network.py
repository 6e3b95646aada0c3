"""Whole networks on the latency kernels: activations stay planes from the image to the classifier.

Channels are stored everywhere in the order that the sparse layers read, which costs nothing: the
rows of every layer are packed in the order of its output. Each kernel may start before the one in
front of it has ended, and fetches its weights meanwhile. Plans are chosen inside the network:
kernels of many shapes that follow each other cost more than each of them alone.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from csbench.backends.base import LoweredNetwork
from csbench.backends.chain import Call, in_turn
from csbench.backends.cs import latency_layer as layers
from csbench.backends.cs.calibrate import calibrate
from csbench.backends.cs.latency_plan import Prepared, prepare
from csbench.backends.cs.pooling import is_global_mean, max_window
from csbench.core.case import Case
from csbench.core.record import LayerReport
from csbench.graph.attach import attach
from csbench.graph.program import Conv, Program, Step
from csbench.kernels import nvrtc, search
from csbench.kernels.latency import io
from csbench.kernels.latency.io import Planes, Window
from csbench.kernels.latency.pack import Order

# The largest calibrated magnitude is stored as at most 2^8: inputs may grow 2^8 times before the
# range of halves ends, and what a half rounds away stays exact for all but tiny numbers.
_CALIBRATED = 2.0**8
_ALTERNATIVES = 5  # of each layer's plans alone, tried again in the network

Value = Tensor | Planes
_DTYPE = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.half, "bf16": torch.bfloat16}


def lower_network(program: Program, case: Case, *, sparse: bool = True) -> LoweredNetwork | None:
    """The whole network as one callable; None where some layer fits none of the kernels.

    Without `sparse` every layer runs dense, whatever its zeros: the dense baseline that gets all
    that the sparse kernels get.
    """
    program = program if sparse else attach(program, {})
    if any(layers.why_not(conv, case) for conv in program.convolutions):
        return None
    return _Lowering(program, case).network()


class _Lowering:
    """Turns steps into calls over a table of values, and remembers which of them are planes."""

    def __init__(self, program: Program, case: Case) -> None:
        self.program, self.case, self.split = program, case, case.dtype == "fp32"
        self.peaks = calibrate(program, case)
        found = Counter(g for g in map(layers.grouping, program.convolutions) if g.m > 1)
        self.grouping = found.most_common(1)[0][0] if found else layers.Grouping(1)
        self.readers = _readers(program)
        self.planes: dict[int, tuple[Order, float]] = {}  # by value: order and scale
        self.packed: dict[tuple[int, Order, bool], int] = {}
        self.fresh = itertools.count(1 + max(step.output for step in program.steps))
        self.calls: list[Call] = []
        self.layers: list[Prepared] = []
        self.ranked: dict[Hashable, list[str]] = {}  # by a layer's signature: its best plans alone
        self.chosen: dict[Hashable, str] = {}

    def network(self) -> LoweredNetwork:
        for step in self.program.steps:
            if isinstance(step.op, Conv):
                self._convolution(step, step.op)
            elif not self._pooling(step):
                inputs = tuple(self._plain(n) for n in step.inputs)
                self.calls.append(Call(step.op, inputs, step.output))
        run = in_turn(self.calls, self._plain(self.program.result))
        self._choose(run)
        return LoweredNetwork(run, tuple(map(self._report, self.layers)))

    def _choose(self, run: Callable[[Tensor], Tensor]) -> None:
        x = torch.randn(self.case.batch, *self.program.input_size, device=self.case.device)
        x = x.to(_DTYPE[self.case.dtype])
        sources = nvrtc.digest("latency/conv.cu", "latency/io.cu")
        key = ("cs latency network", sources, self.program.model, self.case.batch, self.case.dtype)
        search.in_context(lambda: run(x), self.chosen, self.ranked, key)
        for layer in self.layers:
            layer.keep(self.chosen[layer.signature])

    # ---- steps

    def _convolution(self, step: Step, conv: Conv) -> None:
        cout = conv.weight.shape[0]
        plain = not conv.residual and not any(map(_on_planes, self.readers[step.output]))
        out_order = None if plain else self._order(cout)
        rows = cout if out_order is None else out_order.stored
        layer = layers.kernelize(conv, self.case.batch, rows)
        dense = layer.m == 1 and not layer.windowed  # such a layer takes any order
        order = self._order(layer.weight.shape[1]) if dense else layer.order
        inputs = [self._as_planes(step.inputs[0], order, layer)]
        if out_order is not None and conv.residual:
            inputs.append(self._as_planes(step.inputs[1], out_order))
        scales = self.planes[inputs[0]][1], self._scale(step.output)
        prepared = prepare(layer, self.split, order, out_order, scales)
        self.layers.append(prepared)
        if prepared.signature not in self.ranked:
            self.ranked[prepared.signature] = prepared.ranked()[:_ALTERNATIVES]
            self.chosen[prepared.signature] = self.ranked[prepared.signature][0]
        run = _launcher(prepared, self.chosen, _DTYPE[self.case.dtype])
        self.calls.append(Call(run, tuple(inputs), step.output))
        if out_order is not None:
            self.planes[step.output] = out_order, scales[1]

    def _pooling(self, step: Step) -> bool:
        source, window = step.inputs[0], max_window(step.op)
        if source not in self.planes or not _is_pooling(step):
            return False
        run: Callable[..., Value] = io.mean_pool
        if window is not None:
            square = Window(*((n, n) for n in (window.kernel, window.stride, window.padding)))

            def run(x: Planes) -> Planes:
                _, height, width = x.size
                return io.max_pool(x, square, window.output(height), window.output(width))

        self.calls.append(Call(run, (source,), step.output))
        self.planes[step.output] = self.planes[source]
        return True

    # ---- values

    def _as_planes(self, value: int, order: Order, layer: layers.Kernelized | None = None) -> int:
        """The number under which a value is found as planes of that order."""
        windowed = layer is not None and layer.windowed
        if value in self.planes and self.planes[value][0] == order and not windowed:
            return value
        key = (value, order, windowed)
        if key not in self.packed:
            source, scale = self._plain(value), self._scale(value)
            self.packed[key] = number = next(self.fresh)
            self.planes[number] = order, scale
            self.calls.append(Call(_packer(layer, order, self.split, scale), (source,), number))
        return self.packed[key]

    def _plain(self, value: int) -> int:
        """The number under which a value is found as a torch tensor."""
        if value not in self.planes:
            return value
        number, dtype = next(self.fresh), _DTYPE[self.case.dtype]
        self.calls.append(Call(lambda x: io.unpack(x).to(dtype), (value,), number))
        return number

    def _order(self, channels: int) -> Order:
        """The order of a tensor of so many channels: the sparse layers' where it can be."""
        return self.grouping.order(channels)

    def _scale(self, value: int) -> float:
        """The power of two that brings the calibrated peak to at most 2^8."""
        peak = self.peaks[value].peak
        return 2.0 ** math.floor(math.log2(_CALIBRATED / peak)) if peak > 0 else 1.0

    def _report(self, layer: Prepared) -> LayerReport:
        conv, sparse = layer.layer.conv, layer.layer.m > 1
        convolution = layer.convolution(self.chosen[layer.signature])
        flops = conv.sparse_flops if sparse else conv.dense_flops
        return LayerReport(
            name=conv.name, ran="sparse" if sparse else "dense",
            reason=None if sparse else "kept dense", bytes=convolution.bytes,
            flops=flops * self.case.batch, algorithm=f"latency {convolution.plan}",
        )  # fmt: skip


def _launcher(
    prepared: Prepared, chosen: dict[Hashable, str], dtype: torch.dtype
) -> Callable[..., Value]:
    """Runs whatever plan `chosen` names for this layer at that moment."""
    signature = prepared.signature

    def run(x: Planes, residual: Planes | None = None) -> Value:
        out = prepared.output()
        prepared.convolution(chosen[signature]).launch(x, out, residual)
        return out if isinstance(out, Planes) else out.permute(0, 3, 1, 2).to(dtype)

    return run


def _packer(
    layer: layers.Kernelized | None, order: Order, split: bool, scale: float
) -> Callable[..., Value]:
    if layer is not None:
        return lambda x: layers.pack_input(x, layer, order, split, scale)
    return lambda x: io.pack(layers.as_float(x), split, order, scale)


def _readers(program: Program) -> dict[int, list[Step]]:
    """For each value the steps that read it."""
    readers: dict[int, list[Step]] = {step.output: [] for step in program.steps}
    for step in program.steps:
        for value in step.inputs:
            readers.setdefault(value, []).append(step)
    return readers


def _is_pooling(step: Step) -> bool:
    return max_window(step.op) is not None or is_global_mean(step.op)


def _on_planes(step: Step) -> bool:
    return isinstance(step.op, Conv) or _is_pooling(step)

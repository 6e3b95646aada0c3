"""Whole networks on the latency kernels: activations stay planes from the image to the classifier.

Channels are stored everywhere in the order that the sparse layers read, which costs nothing: the
rows of every layer are packed in the order of its output. Each kernel may start before the one in
front of it has ended, and fetches its weights meanwhile. Plans are chosen inside the network:
kernels of many shapes that follow each other cost more than each of them alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from functools import partial
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from csbench.backends.base import TORCH_DTYPE, LoweredNetwork
from csbench.backends.chain import Call, in_turn
from csbench.backends.cs import latency_layer as layers
from csbench.backends.cs.latency_ends import head_fits, pack_head, pack_stem, stem_fits
from csbench.backends.cs.latency_pair import APART, Pair
from csbench.backends.cs.latency_plan import Prepared, prepare
from csbench.backends.cs.lowering import Lowering
from csbench.backends.cs.pooling import is_global_mean, is_pooling, max_window
from csbench.core.case import Case
from csbench.graph.attach import attach
from csbench.graph.program import Conv, Program, Step
from csbench.kernels import nvrtc, search
from csbench.kernels.latency import io
from csbench.kernels.latency.io import Planes, Window
from csbench.kernels.latency.pack import VECTORS, Order

Value = Tensor | Planes


def lower_network(program: Program, case: Case, *, sparse: bool = True) -> LoweredNetwork | None:
    """The whole network as one callable; None where some layer fits none of the kernels.

    Without `sparse` every layer runs dense, whatever its zeros: the dense baseline that gets all
    that the sparse kernels get.
    """
    if any(layers.why_not(conv, case) for conv in program.convolutions):
        return None
    kinds = {layers.grouping(conv).m for conv in program.convolutions} - {1}
    if VECTORS in kinds and len(kinds) > 1:  # vectors read channels as they come
        return None
    return _Lowering(program if sparse else attach(program, {}), case).network()


class _Lowering(Lowering):
    """Remembers which values are planes, and chooses plans in the network."""

    def __init__(self, program: Program, case: Case) -> None:
        super().__init__(program, case)
        self.split = case.dtype == "fp32"
        found = Counter(g for g in map(layers.grouping, program.convolutions) if g.m > 1)
        self.grouping = found.most_common(1)[0][0] if found else layers.Grouping(1)
        self.planes: dict[int, tuple[Order, float]] = {}  # by value: order and scale
        self.ways: list[Prepared | Pair] = []
        self.reporters: list[Callable[[], None]] = []  # of layers, once plans are chosen
        self.ranked: dict[Hashable, list[str]] = {}  # by a layer's signature: its best plans alone
        self.chosen: dict[Hashable, str] = {}

    def network(self) -> LoweredNetwork:
        steps = list(self.program.steps)
        while steps:
            step = steps.pop(0)
            following = steps[0] if steps and self.alone(step.output, steps[0]) else None
            if following is not None and self._together(step, following):
                steps.pop(0)
            elif isinstance(step.op, Conv):
                self._convolution(step, step.op, steps)
            elif not self._pooling(step):
                inputs = tuple(self._plain(n) for n in step.inputs)
                self.calls.append(Call(step.op, inputs, step.output))
        run = in_turn(self.calls, self._plain(self.program.result))
        self._choose(run)
        for report in self.reporters:
            report()
        place = {conv.name: i for i, conv in enumerate(self.program.convolutions)}
        return LoweredNetwork(run, tuple(sorted(self.reports, key=lambda r: place[r.name])))

    def _choose(self, run: Callable[[Tensor], Tensor]) -> None:
        x = torch.randn(self.case.batch, *self.program.input_size, device=self.case.device)
        x = x.to(TORCH_DTYPE[self.case.dtype])
        sources = nvrtc.digest(*(f"latency/{n}.cu" for n in ("conv", "head", "io", "stem")))
        key = ("cs latency network", sources, self.program.model, self.case.batch, self.case.dtype)
        search.in_context(lambda: run(x), self.chosen, self.ranked, key)
        for way in self.ways:
            way.keep(self.chosen[way.signature])

    def _report(self, layer: Prepared, pair: Pair | None = None) -> None:
        chosen = self.chosen[(pair or layer).signature]
        convolution = layer.convolution(pair.plans(chosen)[layer] if pair else chosen)
        dense = "kept dense" if layer.layer.m == 1 else None
        algorithm = f"latency {convolution.plan}"
        if pair is not None and chosen != APART:
            algorithm += f", in one launch with {pair.other(layer).layer.conv.name}"
        self.report(layer.layer.conv, convolution.bytes, algorithm, dense)

    # ---- steps

    def _together(self, step: Step, following: Step) -> bool:
        """Whether one kernel runs both: the stem with max pooling, the mean with the classifier."""
        return self._stem(step, following) or self._head(step, following)

    def _stem(self, step: Step, pooling: Step) -> bool:
        conv, source = step.op, step.inputs[0]
        if source in self.planes or not isinstance(conv, Conv):
            return False
        if not stem_fits(conv, max_window(pooling.op)):
            return False
        order, scale = self._order(conv.weight.shape[0]), self.scale(step.output)
        scales = self.scale(source), scale
        stem = pack_stem(conv, self.split, order, scales, self.case.device)
        self.calls.append(Call(lambda x: stem(layers.as_float(x)), (source,), pooling.output))
        self.planes[pooling.output] = order, scale
        self.report(conv, stem.bytes, "latency stem, max pooling within", "kept dense")
        return True

    def _head(self, step: Step, linear: Step) -> bool:
        conv, source = linear.op, step.inputs[0]
        if source not in self.planes or not is_global_mean(step.op) or not isinstance(conv, Conv):
            return False
        order, scale = self.planes[source]
        fits = head_fits(conv, self.split, order, self.case.batch)
        if not fits or not self._is_plain(linear, conv):
            return False
        head = pack_head(conv, self.split, order, scale, self.case.device)
        dtype = TORCH_DTYPE[self.case.dtype]
        self.calls.append(Call(lambda x: head(x, dtype), (source,), linear.output))
        self.report(conv, head.bytes, "latency head, mean within", "kept dense")
        return True

    def _convolution(self, step: Step, conv: Conv, rest: list[Step]) -> None:
        prepared, inputs = self._prepared(step, conv)
        partner = self._partner(step, conv, rest)
        if partner is not None and isinstance(partner.op, Conv):
            other, others = self._prepared(partner, partner.op)
            pair = Pair((prepared, other))
            if others == inputs and pair.ways:
                rest.remove(partner)
                self._pair(pair, inputs[0], (step.output, partner.output))
                return
        self._rank(prepared)
        self.reporters.append(partial(self._report, prepared))
        run = _launcher(prepared, self.chosen, TORCH_DTYPE[self.case.dtype])
        self.calls.append(Call(run, inputs, step.output))

    def _prepared(self, step: Step, conv: Conv) -> tuple[Prepared, tuple[int, ...]]:
        """The layer with packed weights, and the numbers of the planes that it reads."""
        cout = conv.weight.shape[0]
        out_order = None if self._is_plain(step, conv) else self._order(cout)
        rows = cout if out_order is None else out_order.stored
        layer = layers.kernelize(conv, self.case.batch, rows)
        dense = layer.m == 1 and not layer.windowed  # such a layer takes any order
        order = self._order(layer.weight.shape[1]) if dense else layer.order
        inputs = [self._as_planes(step.inputs[0], order, layer)]
        if out_order is not None and conv.residual:
            inputs.append(self._as_planes(step.inputs[1], out_order))
        scales = self.planes[inputs[0]][1], self.scale(step.output)
        if out_order is not None:
            self.planes[step.output] = out_order, scales[1]
        prepared = prepare(layer, self.split, order, out_order, scales, self.case.device)
        return prepared, tuple(inputs)

    def _partner(self, step: Step, conv: Conv, rest: list[Step]) -> Step | None:
        """A later convolution of the same value that can share a launch with this one."""
        if conv.residual or self._is_plain(step, conv):
            return None
        for other in self.readers[step.inputs[0]]:
            if other in rest and isinstance(other.op, Conv) and not other.op.residual:
                same = layers.grouping(other.op) == layers.grouping(conv)
                if same and not self._is_plain(other, other.op):
                    return other
        return None

    def _pair(self, pair: Pair, source: int, outputs: tuple[int, int]) -> None:
        self._rank(pair)
        for layer in pair.layers:
            self.reporters.append(partial(self._report, layer, pair))
        both = next(self._fresh)
        self.calls.append(Call(_pair_launcher(pair, self.chosen), (source,), both))
        for i, output in enumerate(outputs):
            self.calls.append(Call(itemgetter(i), (both,), output))

    def _rank(self, way: Prepared | Pair) -> None:
        """Choose the best plan of a layer or pair alone, and remember those to try again."""
        self.ways.append(way)
        if way.signature not in self.ranked:
            self.ranked[way.signature] = best = way.alternatives()
            self.chosen[way.signature] = best[0]
            way.keep(*best)

    def _is_plain(self, step: Step, conv: Conv) -> bool:
        """Whether the result is a torch tensor: only torch steps read it."""
        return not conv.residual and not any(map(_on_planes, self.readers[step.output]))

    def _pooling(self, step: Step) -> bool:
        source, window = step.inputs[0], max_window(step.op)
        if source not in self.planes or not is_pooling(step.op):
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
        scale = self.scale(value)
        run = _packer(layer, order, self.split, scale)
        number = self.converted(self._plain(value), (order, windowed), run)
        self.planes[number] = order, scale
        return number

    def _plain(self, value: int) -> int:
        """The number under which a value is found as a torch tensor."""
        if value not in self.planes:
            return value
        dtype = TORCH_DTYPE[self.case.dtype]
        return self.converted(value, "plain", lambda x: io.unpack(x).to(dtype))

    def _order(self, channels: int) -> Order:
        """The order of a tensor of so many channels: the sparse layers' where it can be."""
        return self.grouping.order(channels)


def _pair_launcher(pair: Pair, chosen: dict[Hashable, str]) -> Callable[[Planes], Any]:
    return lambda x: pair.launch(chosen[pair.signature], x)


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


def _on_planes(step: Step) -> bool:
    return isinstance(step.op, Conv) or is_pooling(step.op)

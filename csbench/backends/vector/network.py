"""Whole networks on the gather kernels: activations stay runs of columns to the classifier.

Layers that keep their pattern run sparse, all others dense on the same kernels: the stem on
wgmma's, depthwise layers on their own. What fits none of them, and any other operation, gets its
inputs in torch's layout; where a layer reads the result it is packed again. Plans are chosen when
the whole network can run (choice.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from csbench.backends.base import TORCH_DTYPE, LoweredNetwork
from csbench.backends.chain import Call, in_turn
from csbench.backends.cs import throughput_layer as wgmma
from csbench.backends.cs.lowering import Lowering
from csbench.backends.cs.pooling import is_global_mean, max_window, stem_takes
from csbench.backends.dense.algorithms import normal
from csbench.backends.dense.cudnn import Cudnn
from csbench.backends.vector.choice import Choice
from csbench.backends.vector.depthwise import Depthwise, is_depthwise
from csbench.backends.vector.layer import Layer, kind_of, shape_of, why_not_at_all
from csbench.backends.vector.units import from_dense, units_of
from csbench.core.case import Case
from csbench.errors import PatternError
from csbench.graph.program import Conv, Program, Step
from csbench.kernels import nvrtc
from csbench.kernels.gather import io
from csbench.kernels.gather.geometry import geometry
from csbench.kernels.gather.layout import Activation, Unfolding
from csbench.kernels.gather.pack import Units

_SOURCES = ("gather/conv.cu", "gather/io.cu", "gather/window.cu")


@dataclass(frozen=True)
class Stored:
    """How a value is kept: as columns (times `scale`) or as a torch tensor (NCHW)."""

    columns: bool
    scale: float = 1.0


def lower_network(program: Program, case: Case, *, sparse: bool = True) -> LoweredNetwork:
    """The whole network as one callable.

    Without `sparse` every layer runs dense, whatever its zeros: the dense twin that gets all that
    the sparse kernels get.
    """
    return _Lowering(program, case, sparse).network()


class _Lowering(Lowering):
    """Remembers how each value is stored."""

    def __init__(self, program: Program, case: Case, sparse: bool) -> None:
        self.sparse, self.kind = sparse, kind_of(case.dtype)
        super().__init__(program, case, scaled=self.kind.planes > 1)
        self.stored = {0: Stored(False)}
        self.choice = Choice()
        self.layers: list[tuple[Conv, Layer, str | None]] = []  # and why dense if they are

    def network(self) -> LoweredNetwork:
        steps = list(self.program.steps)
        while steps:
            step = steps.pop(0)
            if isinstance(step.op, Conv):
                self._convolution(step, step.op, steps)
            elif not self._pooling(step):
                inputs = tuple(self._plain(n) for n in step.inputs)
                self._add(step.output, Stored(False), step.op, inputs)
        run = in_turn(self.calls, self._plain(self.program.result))
        self._choose(run)
        for conv, layer, dense in self.layers:
            self.report(conv, layer.bytes, layer.algorithm, dense)
        order = [conv.name for conv in self.program.convolutions]
        reports = sorted(self.reports, key=lambda report: order.index(report.name))
        return LoweredNetwork(run, tuple(reports))

    def _choose(self, run: Callable[[Tensor], Tensor]) -> None:
        """Each layer's plan, by the time of the whole network."""
        others = [report.algorithm for report in self.reports]
        key = (
            "gather in a network", nvrtc.digest(*_SOURCES), self.program.model, self.case.batch,
            self.case.dtype, others,
        )  # fmt: skip
        x = normal(self.program.input_size, self.case, "NCHW")
        self.choice.settle(partial(run, x), key)

    # ---- steps

    def _convolution(self, step: Step, conv: Conv, rest: list[Step]) -> None:
        if self._stem(step, conv, rest):
            return
        if is_depthwise(conv):
            self._depthwise(step, conv)
        elif (reason := why_not_at_all(conv, self.case.batch)) is not None:
            lowered = Cudnn().lower(conv, self.case)
            inputs = tuple(self._plain(n) for n in step.inputs)
            self._add(step.output, Stored(False), lowered.run, inputs)
            self.report(conv, lowered.weight_bytes, lowered.algorithm, reason)
        else:
            self._layer(step, conv)

    def _stem(self, step: Step, conv: Conv, rest: list[Step]) -> bool:
        """A dense first convolution, and a max pooling that alone reads it, on wgmma."""
        kind, shape = wgmma.kind_of(self.case.dtype, sparse=False), wgmma.geometry(conv)
        following = rest[0].op if rest and self.alone(step.output, rest[0]) else None
        which = stem_takes(conv, shape, kind, following)
        if self.stored[step.inputs[0]].columns or which is None:
            return False
        pool = which == "stem_pool"
        stored = Stored(True, self.scale(step.output))
        gain = self.scale(step.inputs[0])
        stem = wgmma.Stem(conv, kind, self.case.device, gain, stored.scale, pool)
        packed = self.converted(step.inputs[0], ("stem", step.output), stem.run)
        convert = partial(io.from_packed, channels=shape.cout, planes=kind.planes)
        self._add(rest.pop(0).output if pool else step.output, stored, convert, (packed,))
        self.report(conv, stem.stored_bytes, stem.algorithm, "the first layer")
        return True

    def _depthwise(self, step: Step, conv: Conv) -> None:
        value = self._columns(step.inputs[0])
        stored = Stored(True, self.scale(step.output))
        layer = Depthwise(conv, self.case.device, self.stored[value].scale, stored.scale)
        self._add(step.output, stored, layer.run, (value,))
        self.report(conv, layer.bytes, "depthwise", "a depthwise layer")

    def _layer(self, step: Step, conv: Conv) -> None:
        inputs = tuple(self._columns(n) for n in step.inputs)
        stored = Stored(True, self.scale(step.output))
        scales = (self.stored[inputs[0]].scale, self.stored[inputs[-1]].scale, stored.scale)
        units, dense = self._units(conv)
        layer = Layer(
            conv, units, self.kind, self.case.batch, self.case.device, scales,
            self._unfolding(step.output),
        )  # fmt: skip
        self._add(step.output, stored, self.choice.add(layer), inputs)
        self.layers.append((conv, layer, dense))

    def _unfolding(self, value: int) -> Unfolding | None:
        """What a layer that follows reads, where that is near what is stored."""
        for step in self.readers[value]:
            if isinstance(step.op, Conv) and step.inputs[0] == value:
                refused = is_depthwise(step.op) or why_not_at_all(step.op, self.case.batch)
                shape = shape_of(step.op, self.case.batch)
                near = shape.unfolding.is_near(shape.size[1])
                if not refused and geometry(shape).unfolded and near:
                    return shape.unfolding
        return None

    def _units(self, conv: Conv) -> tuple[Units, str | None]:
        """The weights of a layer, and why they are dense if they are."""
        if conv.pattern is None:
            return from_dense(conv.weight), "kept dense"
        if not self.sparse:
            return from_dense(conv.weight), "dense on purpose"
        try:
            return units_of(conv), None
        except PatternError as error:
            return from_dense(conv.weight), str(error)

    def _pooling(self, step: Step) -> bool:
        stored, window = self.stored[step.inputs[0]], max_window(step.op)
        if not stored.columns:
            return False
        if window is not None:
            kernel, stride, padding = ((n, n) for n in window)

            def pool(x: Activation) -> Activation:
                size = (window.output(x.layout.height), window.output(x.layout.width))
                return io.max_pool(x, kernel, stride, padding, size)

            self._add(step.output, stored, pool, step.inputs)
        elif is_global_mean(step.op):
            self._add(step.output, stored, io.mean_pool, step.inputs)
        else:
            return False
        return True

    # ---- values

    def _columns(self, value: int) -> int:
        """The number under which a value is found as columns."""
        if self.stored[value].columns:
            return value
        stored = Stored(True, self.scale(value))
        run = partial(
            io.pack, planes=self.kind.planes, bf16=self.kind.bf16, gain=self.constant(stored.scale)
        )
        number = self.converted(value, "columns", run)
        self.stored[number] = stored
        return number

    def _plain(self, value: int) -> int:
        """The number under which a value is found as a torch tensor."""
        stored = self.stored[value]
        if not stored.columns:
            return value
        gain, like = self.constant(stored.scale), TORCH_DTYPE[self.case.dtype]
        number = self.converted(value, "plain", partial(io.unpack, gain=gain, like=like))
        self.stored[number] = Stored(False)
        return number

    def _add(
        self, output: int, stored: Stored, call: Callable[..., Any], inputs: tuple[int, ...]
    ) -> None:
        self.stored[output] = stored
        self.calls.append(Call(call, inputs, output))

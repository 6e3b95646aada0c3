"""Whole networks on the wgmma kernels: activations stay packed from the stem to the classifier.

The program's channels are reordered first, so that the groups of its patterns are neighbours.
Every convolution runs on these kernels, sparse where its weights allow it and else dense; pooling
too. Any other operation gets its inputs in torch's layout and is packed again where a layer reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from csbench.backends.base import TORCH_DTYPE, LoweredNetwork
from csbench.backends.chain import Call, in_turn
from csbench.backends.cs.lowering import Lowering
from csbench.backends.cs.pooling import is_pooling, max_window, stem_takes
from csbench.backends.cs.throughput_layer import (
    Layer,
    Stem,
    geometry,
    kind_of,
    why_not_at_all,
)
from csbench.core.case import Case
from csbench.graph.permute import joining, permute
from csbench.graph.program import Conv, Program, Step
from csbench.kernels import two_of_four
from csbench.kernels.wgmma import launch


@dataclass(frozen=True)
class Stored:
    """How a value is kept: packed (NHWC halves, times `scale`) or as a torch tensor (NCHW)."""

    packed: bool
    channels: int
    scale: float


def lower_network(program: Program, case: Case, *, sparse: bool = True) -> LoweredNetwork | None:
    """The whole network as one callable; None where some layer fits none of the kernels.

    Without `sparse` every layer runs dense, whatever its zeros: the dense baseline that gets all
    that the sparse kernels get.
    """
    if any(why_not_at_all(conv, case) for conv in program.convolutions):
        return None
    program = permute(program, joining(conv.pattern for conv in program.convolutions))
    return _Lowering(program, case, sparse).network()


class _Lowering(Lowering):
    """Remembers how each value is stored."""

    def __init__(self, program: Program, case: Case, sparse: bool) -> None:
        self.sparse, self.dense_kind = sparse, kind_of(case.dtype, sparse=False)
        super().__init__(program, case, scaled=self.dense_kind.planes > 1)
        self.stored = {0: Stored(False, program.input_size[0], 1.0)}

    def network(self) -> LoweredNetwork:
        steps = list(self.program.steps)
        while steps:
            step = steps.pop(0)
            if isinstance(step.op, Conv):
                if not self._stem(step, step.op, steps):
                    self._layer(step, step.op)
            elif not self._pooling(step):
                inputs = tuple(self.plain(n) for n in step.inputs)
                self._add(step.output, Stored(False, 0, 1.0), step.op, inputs)
        run = in_turn(self.calls, self.plain(self.program.result))
        return LoweredNetwork(run, tuple(self.reports))

    # ---- steps

    def _stem(self, step: Step, conv: Conv, rest: list[Step]) -> bool:
        """A dense first convolution, and a max pooling that alone reads it."""
        source = step.inputs[0]
        following = rest[0].op if rest and self.alone(step.output, rest[0]) else None
        which = stem_takes(conv, geometry(conv), self.dense_kind, following)
        if self.stored[source].packed or which is None:
            return False
        pool = which == "stem_pool"
        stored = Stored(True, conv.output_size[0], self.scale(step.output))
        stem = Stem(conv, self.dense_kind, self.case.device, self.scale(source), stored.scale, pool)
        self._add(rest.pop(0).output if pool else step.output, stored, stem.run, step.inputs)
        reason = "the first layer" if conv.pattern is None else "few channels"
        self.report(conv, stem.stored_bytes, stem.algorithm, reason)
        return True

    def _layer(self, step: Step, conv: Conv) -> None:
        inputs = tuple(self.packed(n) for n in step.inputs)
        stored = Stored(True, conv.output_size[0], self.scale(step.output))
        scales = (self.stored[inputs[0]].scale, self.stored[inputs[-1]].scale, stored.scale)
        sparse = self.sparse and conv.pattern is not None and two_of_four.fits(conv.weight)
        layer = Layer(conv, self.dense_kind._replace(sparse=sparse), self.case.device, scales)
        layer.choose(*self._samples(conv))
        self._add(step.output, stored, layer.run, inputs)
        reason = "weights are not 2:4" if self.sparse else "dense on purpose"
        reason = "kept dense" if conv.pattern is None else reason
        self.report(conv, layer.stored_bytes, layer.algorithm, None if sparse else reason)

    def _pooling(self, step: Step) -> bool:
        kind, stored = self.dense_kind, self.stored[step.inputs[0]]
        if not stored.packed or not is_pooling(step.op):
            return False
        window = max_window(step.op)
        call = (
            partial(launch.average_pool, kind=kind)
            if window is None
            else partial(launch.max_pool, window=window, kind=kind)
        )
        self._add(step.output, stored, call, step.inputs)
        return True

    # ---- values

    def packed(self, value: int) -> int:
        """The number under which a value is found packed."""
        if self.stored[value].packed:
            return value
        made = Stored(True, self.peaks[value].channels, self.scale(value))
        gain = self.constant(made.scale)
        run = partial(launch.pack, kind=self.dense_kind, gain=gain)
        number = self.converted(value, "packed", run)
        self.stored[number] = made
        return number

    def plain(self, value: int) -> int:
        """The number under which a value is found as a torch tensor."""
        stored = self.stored[value]
        if not stored.packed:
            return value
        run = partial(
            launch.unpack, channels=stored.channels, kind=self.dense_kind,
            gain=self.constant(stored.scale), like=TORCH_DTYPE[self.case.dtype],
        )  # fmt: skip
        number = self.converted(value, "plain", run)
        self.stored[number] = Stored(False, stored.channels, 1.0)
        return number

    def _add(
        self, output: int, stored: Stored, call: Callable[..., Tensor], inputs: tuple[int, ...]
    ) -> None:
        self.stored[output] = stored
        self.calls.append(Call(call, inputs, output))

    def _samples(self, conv: Conv) -> tuple[Tensor, Tensor | None]:
        """Random packed activations to time a layer with."""
        one = self.constant(1.0)

        def draw(size: tuple[int, int, int]) -> Tensor:
            x = torch.randn(self.case.batch, *size, device=self.case.device)
            return launch.pack(x, self.dense_kind, one)

        return draw(conv.input_size), draw(conv.output_size) if conv.residual else None

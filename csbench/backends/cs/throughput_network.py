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

from csbench.backends.base import LoweredNetwork
from csbench.backends.chain import Call, in_turn
from csbench.backends.cs.calibrate import calibrate
from csbench.backends.cs.pooling import is_global_mean, max_window
from csbench.backends.cs.throughput_layer import TORCH_DTYPE, Layer, Stem, geometry, kind_of
from csbench.core.case import Case
from csbench.core.record import LayerReport
from csbench.graph.permute import joining, permute
from csbench.graph.program import Conv, Program, Step
from csbench.kernels import two_of_four
from csbench.kernels.wgmma import launch
from csbench.kernels.wgmma.stem import STEM_POOL, stem_fits, stem_pool_fits

# The largest calibrated magnitude is stored as 2^8, so inputs may grow 2^7 times before fp16's
# range ends, and the low halves keep fp32's bits for all but tiny numbers.
_CALIBRATED = 2.0**8


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
    from csbench.backends.cs.throughput import why_not_at_all  # it imports this module

    if any(why_not_at_all(conv, case) for conv in program.convolutions):
        return None
    program = permute(program, joining(conv.pattern for conv in program.convolutions))
    return _Lowering(program, case, sparse).network()


class _Lowering:
    """Turns steps into calls over a table of values, and remembers how each value is stored."""

    def __init__(self, program: Program, case: Case, sparse: bool) -> None:
        self.program, self.case, self.sparse = program, case, sparse
        self.dense_kind = kind_of(case.dtype, sparse=False)
        self.peaks = calibrate(program, case)
        self.stored = {0: Stored(False, program.input_size[0], 1.0)}
        self.readers = _readers(program)
        self.calls: list[Call] = []
        self.reports: list[LayerReport] = []
        self.scales: dict[float, Tensor] = {}

    def network(self) -> LoweredNetwork:
        steps = list(self.program.steps)
        while steps:
            step = steps.pop(0)
            if isinstance(step.op, Conv):
                if not self._stem(step, step.op, steps):
                    self._layer(step, step.op)
            elif not self._pooling(step):
                self._other(step)
        result = self.plain(self.program.result)
        return LoweredNetwork(in_turn(self.calls, result), tuple(self.reports))

    # ---- steps

    def _stem(self, step: Step, conv: Conv, rest: list[Step]) -> bool:
        """A dense first convolution, and a max pooling that alone reads it."""
        kind, shape = self.dense_kind, geometry(conv)
        if self.stored[step.inputs[0]].packed or conv.residual:
            return False
        alone = bool(rest) and self.readers[step.output] == [rest[0].name]
        pool = alone and max_window(rest[0].op) == STEM_POOL and stem_pool_fits(kind, shape)
        if not pool and not stem_fits(kind, shape):
            return False
        result = rest[0].output if pool else step.output
        stored = self._store(step.output, conv.output_size[0])
        stem = Stem(conv, kind, self.case.device, self._scale(step.inputs[0]), stored.scale, pool)
        self._add(result, stored, stem.run, step.inputs)
        self._report(conv, stem, "the first layer" if conv.pattern is None else "few channels")
        if pool:
            rest.pop(0)
        return True

    def _layer(self, step: Step, conv: Conv) -> None:
        inputs = tuple(self.packed(n) for n in step.inputs)
        stored = self._store(step.output, conv.output_size[0])
        scales = (
            self.stored[inputs[0]].scale, self.stored[inputs[-1]].scale, stored.scale,
        )  # fmt: skip
        sparse = self.sparse and conv.pattern is not None and two_of_four.fits(conv.weight)
        layer = Layer(conv, self.dense_kind._replace(sparse=sparse), self.case.device, scales)
        layer.choose(*self._samples(conv))
        self._add(step.output, stored, layer.run, inputs)
        reason = "weights are not 2:4" if self.sparse else "dense on purpose"
        reason = "kept dense" if conv.pattern is None else reason
        self._report(conv, layer, None if sparse else reason)

    def _pooling(self, step: Step) -> bool:
        kind, stored = self.dense_kind, self.stored[step.inputs[0]]
        window = max_window(step.op)
        if not stored.packed or (window is None and not is_global_mean(step.op)):
            return False
        call = (
            partial(launch.average_pool, kind=kind)
            if window is None
            else partial(launch.max_pool, window=window, kind=kind)
        )
        self._add(step.output, stored, call, step.inputs)
        return True

    def _other(self, step: Step) -> None:
        assert not isinstance(step.op, Conv)
        inputs = tuple(self.plain(n) for n in step.inputs)
        self._add(step.output, Stored(False, 0, 1.0), step.op, inputs)

    # ---- values

    def packed(self, value: int) -> int:
        """The number under which a value is found packed."""
        stored = self.stored[value]
        if stored.packed:
            return value
        made = Stored(True, self.peaks[value].channels, self._scale(value))
        gain, number = self._constant(made.scale), self._fresh()
        self._add(number, made, partial(launch.pack, kind=self.dense_kind, gain=gain), (value,))
        return number

    def plain(self, value: int) -> int:
        """The number under which a value is found as a torch tensor."""
        stored = self.stored[value]
        if not stored.packed:
            return value
        convert = partial(
            launch.unpack, channels=stored.channels, kind=self.dense_kind,
            gain=self._constant(stored.scale), like=TORCH_DTYPE[self.case.dtype],
        )  # fmt: skip
        number = self._fresh()
        self._add(number, Stored(False, stored.channels, 1.0), convert, (value,))
        return number

    def _store(self, value: int, channels: int) -> Stored:
        return Stored(True, channels, self._scale(value))

    def _scale(self, value: int) -> float:
        """The power of two that brings the calibrated peak to at most 2^8; 1 for one plane."""
        if self.dense_kind.planes == 1:
            return 1.0
        peak = max(self.peaks[value].peak, 1e-20)
        return float(torch.exp2(torch.floor(torch.log2(torch.tensor(_CALIBRATED / peak)))))

    def _constant(self, scale: float) -> Tensor:
        if scale not in self.scales:
            self.scales[scale] = torch.tensor(scale, device=self.case.device)
        return self.scales[scale]

    def _fresh(self) -> int:
        return max(*self.stored, *(s.output for s in self.program.steps)) + 1

    def _add(
        self, output: int, stored: Stored, call: Callable[..., Tensor], inputs: tuple[int, ...]
    ) -> None:
        self.stored[output] = stored
        self.calls.append(Call(call, inputs, output))

    def _report(self, conv: Conv, made: Layer | Stem, dense: str | None) -> None:
        flops = conv.sparse_flops if dense is None else conv.dense_flops
        self.reports.append(
            LayerReport(
                name=conv.name, ran="sparse" if dense is None else "dense", reason=dense,
                bytes=made.stored_bytes, flops=flops * self.case.batch, algorithm=made.algorithm,
            )
        )  # fmt: skip

    def _samples(self, conv: Conv) -> tuple[Tensor, Tensor | None]:
        """Random packed activations to time a layer with."""
        one = self._constant(1.0)

        def draw(size: tuple[int, int, int]) -> Tensor:
            x = torch.randn(self.case.batch, *size, device=self.case.device)
            return launch.pack(x, self.dense_kind, one)

        return draw(conv.input_size), draw(conv.output_size) if conv.residual else None


def _readers(program: Program) -> dict[int, list[str]]:
    """For each value the names of the steps that read it; the result is read by the caller."""
    readers: dict[int, list[str]] = {step.output: [] for step in program.steps}
    readers[0] = []
    for step in program.steps:
        for value in step.inputs:
            readers[value].append(step.name)
    readers[program.result].append("")
    return readers

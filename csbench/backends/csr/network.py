"""A whole network on the csr kernels: activations stay words, and ways are chosen inside it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import partial

from torch import Tensor

from csbench.backends.base import TORCH_DTYPE, LoweredConv, LoweredNetwork, Run, layer_report
from csbench.backends.chain import Call, in_turn
from csbench.backends.cs.lowering import Lowering
from csbench.backends.csr.gpu import lower, missing, why_not
from csbench.backends.csr.layer import CsrLayer, word_of
from csbench.backends.dense.algorithms import normal
from csbench.backends.dense.cudnn import Cudnn
from csbench.core.case import Case
from csbench.core.record import LayerReport
from csbench.graph.program import Conv, Program, Step
from csbench.kernels import nvrtc, search
from csbench.kernels.csr import launch

__all__ = ["lower", "lower_network", "missing", "why_not"]

ALTERNATIVES = 4  # of each layer's variants alone, tried again in the network


def lower_network(program: Program, case: Case) -> LoweredNetwork:
    """Layers that carry a pattern by these kernels, the others by the dense baseline, and why."""
    return _Lowering(program, case).network()


class _Lowering(Lowering):
    """Remembers which values are words, and chooses ways in the network."""

    def __init__(self, program: Program, case: Case) -> None:
        super().__init__(program, case)
        self.dtype = TORCH_DTYPE[case.dtype]
        self.ranked: dict[Hashable, list[str]] = {}
        self.chosen: dict[Hashable, str] = {}
        self.layers: list[tuple[Conv, CsrLayer | LoweredConv, str | None]] = []
        self.words: set[int] = set()  # values that kernels of csr make

    def network(self) -> LoweredNetwork:
        for step in self.program.steps:
            if isinstance(step.op, Conv) and _why_dense(step.op, self.case) is None:
                self._add(step, self._layer(step.op), words=True)
            else:
                self._add(step, self._other(step), words=False)
        run = in_turn(self.calls, self._in_form(self.program.result, words=False))
        x = normal(self.program.input_size, self.case, "NCHW")
        key = ("csr in a network", nvrtc.digest(*launch.FILES), self.program.model,
               self.case.batch, self.case.dtype)  # fmt: skip
        search.in_context(partial(run, x), self.chosen, self.ranked, key)
        for _, layer, _ in self.layers:
            if isinstance(layer, CsrLayer):
                layer.settle(self.chosen[layer.signature])
        return LoweredNetwork(run, tuple(self._report(*layer) for layer in self.layers))

    def _add(self, step: Step, run: Run, words: bool) -> None:
        inputs = tuple(self._in_form(value, words) for value in step.inputs)
        self.calls.append(Call(run, inputs, step.output))
        if words:
            self.words.add(step.output)

    def _in_form(self, value: int, words: bool) -> int:
        """The number under which a value is found as words or as a torch tensor."""
        if (value in self.words) == words:
            return value
        convert = (
            partial(launch.to_words, dtype=word_of(self.case))
            if words
            else partial(launch.from_words, batch=self.case.batch, dtype=self.dtype)
        )
        return self.converted(value, "words" if words else "plain", convert)

    def _layer(self, conv: Conv) -> Run:
        layer = CsrLayer(conv, self.case)
        signature = layer.signature
        if signature not in self.ranked:
            self.ranked[signature] = layer.ranked()[:ALTERNATIVES]
            self.chosen[signature] = self.ranked[signature][0]
        layer.keep(self.ranked[signature])
        self.layers.append((conv, layer, None))
        return _following(layer, signature, self.chosen)

    def _other(self, step: Step) -> Run:
        if not isinstance(step.op, Conv):
            return step.op
        dense = Cudnn().lower(step.op, self.case)
        self.layers.append((step.op, dense, _why_dense(step.op, self.case)))
        return dense

    def _report(self, conv: Conv, made: CsrLayer | LoweredConv, dense: str | None) -> LayerReport:
        if isinstance(made, CsrLayer):
            (name,) = made.variants
            return layer_report(conv, self.case, made.bytes, made.describe(name), None)
        return layer_report(conv, self.case, made.weight_bytes, made.algorithm, dense)


def _following(layer: CsrLayer, signature: Hashable, chosen: Mapping[Hashable, str]) -> Run:
    """A callable that runs whatever `chosen` names for this layer at that moment."""

    def run(x: Tensor, residual: Tensor | None = None) -> Tensor:
        return layer.run(chosen[signature], x, residual)

    return run


def _why_dense(conv: Conv, case: Case) -> str | None:
    return "it carries no pattern" if conv.pattern is None else why_not(conv, case)

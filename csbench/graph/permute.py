"""The same network with the channels of its values in another order, folded into the weights.

An order of C channels is an index: order[position] is the channel that stands there. Groups of
Complementary Sparsity become neighbours by an order that depends on C alone (`joined`), so it can
be folded into the layers around a value, and a residual addition finds both its sides in it.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor

from csbench.core.pattern import PatternSpec
from csbench.graph.operation import Call, Constant, Operation, Slot
from csbench.graph.program import Conv, Program, Step

Order = Callable[[int], Tensor]


def joined(channels: int, span: int | None = None) -> Tensor:
    """The order in which the groups of `cs:M` are runs of M neighbours, for M = 2, 4, 8 and 16.

    In each span of S channels (all of them by default) channel j * S/16 + g goes to position
    16 * g + bitreverse(j). A span that does not divide the channels leaves them as they come.
    """
    span = channels if span is None else span
    if channels % span:
        return torch.arange(channels)
    run = next(m for m in (16, 8, 4, 2, 1) if span % m == 0)
    bits = run.bit_length() - 1
    reverse = torch.tensor([int(f"{j:0{bits}b}"[::-1], 2) if bits else 0 for j in range(run)])
    within = (reverse * (span // run) + torch.arange(span // run)[:, None]).reshape(-1)
    return (torch.arange(0, channels, span)[:, None] + within).reshape(-1)


def joining(patterns: Iterable[PatternSpec | None]) -> Order:
    """The order that makes neighbours of the groups of most of these patterns.

    Channels stay as they come for all but `cs`: the groups of nm:N:M already are neighbours.
    """
    orders: dict[tuple[int, ...] | None, Order] = {None: torch.arange, (): joined}
    found: Counter[tuple[int, ...] | None] = Counter()
    for pattern in patterns:
        if pattern is not None:
            key = pattern.parameters[1:] if pattern.name == "cs" else None
            orders.setdefault(key, partial(joined, span=key[0] if key else None))
            found[key] += 1
    return orders[found.most_common(1)[0][0]] if found else torch.arange


def permute(program: Program, order: Order) -> Program:
    """An equal program whose values keep their channels in `order(number of channels)`.

    The image and the result stay as they are, and so does what an operation reads that does not
    treat channels alike (flattening a larger image, a concatenation): a step in front of it puts
    the channels back. A Conv's `pattern` names what its weights keep in the model's own order.
    """
    return _Permuting(program, order).program()


class _Permuting:
    """Writes the steps anew, and remembers which values are in order (the others are as before)."""

    def __init__(self, program: Program, order: Order) -> None:
        self.old, self.order = program, order
        self.steps: list[Step] = []
        self.ordered: set[int] = set()
        self.other: dict[tuple[int, bool], int] = {}  # a value in order (True) or put back
        self.shapes: dict[int, tuple[int, ...]] = {0: (1, *program.input_size)}
        self.fresh = 1 + max((step.output for step in program.steps), default=0)

    def program(self) -> Program:
        self._measure()
        self._want()
        for step in self.old.steps:
            if isinstance(step.op, Conv):
                self._convolution(step, step.op)
            else:
                self._operation(step)
        result = self._find(self.old.result, False)
        return dataclasses.replace(self.old, steps=tuple(self.steps), result=result)

    def _measure(self) -> None:
        """Find out which operations keep an order, on one random image."""
        self.keeping: set[int] = set()
        draw = torch.Generator().manual_seed(0)
        for step in self.old.steps:
            if isinstance(step.op, Conv):
                self.shapes[step.output] = (1, *step.op.output_size)
                continue
            inputs = [torch.randn(self.shapes[n], generator=draw) for n in step.inputs]
            out = step.op(*inputs)
            self.shapes[step.output] = tuple(out.shape)
            if self._keeps(step, inputs, out):
                self.keeping.add(step.output)

    def _want(self) -> None:
        """Find out which values some layer reads in order, directly or through operations."""
        self.wanted: set[int] = set()
        for step in reversed(self.old.steps):
            if isinstance(step.op, Conv):
                if step.op.groups == 1:
                    self.wanted.add(step.inputs[0])
                elif not _depthwise(step.op):
                    continue
            elif step.output not in self.keeping:
                continue
            if step.output in self.wanted:
                self.wanted.update(step.inputs)
        self.wanted.discard(self.old.result)

    def _keeps(self, step: Step, inputs: list[Tensor], out: Tensor) -> bool:
        """Whether inputs in order give the result in order."""
        if min(x.dim() for x in (*inputs, out)) < 2:
            return False
        assert not isinstance(step.op, Conv)
        again = step.op(*(self._arranged(x) for x in inputs))
        return torch.allclose(again, self._arranged(out), rtol=1e-4, atol=1e-5, equal_nan=True)

    def _arranged(self, x: Tensor) -> Tensor:
        return x[:, self.order(x.shape[1])]

    # ---- steps

    def _convolution(self, step: Step, conv: Conv) -> None:
        depthwise = _depthwise(conv)
        ordered = step.inputs[0] in self.ordered
        if conv.groups > 1 and not depthwise:
            ordered = False
        elif conv.pattern is not None:
            ordered = True
        source = self._find(step.inputs[0], ordered)
        rows = ordered if depthwise else conv.groups == 1 and step.output in self.wanted
        weight, bias = conv.weight, conv.bias
        if ordered and not depthwise:
            weight = weight[:, self.order(weight.shape[1])]
        if rows:
            weight, bias = weight[self.order(len(weight))], bias[self.order(len(bias))]
            self.ordered.add(step.output)
        inputs = (source, *(self._find(n, rows) for n in step.inputs[1:]))
        permuted = dataclasses.replace(conv, weight=weight.contiguous(), bias=bias)
        self.steps.append(dataclasses.replace(step, op=permuted, inputs=inputs))

    def _operation(self, step: Step) -> None:
        keeps = step.output in self.keeping and any(n in self.ordered for n in step.inputs)
        inputs = tuple(self._find(n, keeps) for n in step.inputs)
        if keeps:
            self.ordered.add(step.output)
        self.steps.append(dataclasses.replace(step, inputs=inputs))

    # ---- values

    def _find(self, value: int, ordered: bool) -> int:
        """The number under which a value is found in order, or as before."""
        if (value in self.ordered) == ordered or len(self.shapes[value]) < 2:
            return value
        index = self.order(self.shapes[value][1])
        if torch.equal(index, torch.arange(len(index))):
            return value
        if (value, ordered) not in self.other:
            index = index if ordered else torch.argsort(index)
            take = Operation(Call(torch.index_select, (Slot(0), 1, Constant(index))))
            name = f"value {value} {'in order' if ordered else 'put back'}"
            self.steps.append(Step(take, (value,), self.fresh, name))
            self.other[value, ordered] = self.fresh
            self.fresh += 1
        return self.other[value, ordered]


def _depthwise(conv: Conv) -> bool:
    """Whether each output channel reads the one input channel of its number."""
    return conv.groups == conv.weight.shape[0] == conv.input_size[0] > 1

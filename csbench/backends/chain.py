"""Callables over numbered values, run one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from csbench.backends.base import Run
from csbench.graph.program import Conv, Program


class Call(NamedTuple):
    """What runs, the numbers of the values that it reads, and of the one that it makes."""

    run: Callable[..., Any]
    inputs: tuple[int, ...]
    output: int


def chain(program: Program, lowered: Sequence[Run]) -> Callable[[Tensor], Tensor]:
    """The network as one callable; `lowered` in the order of `program.convolutions`."""
    convolutions = iter(lowered)
    calls = [
        Call(next(convolutions) if isinstance(step.op, Conv) else step.op, step.inputs, step.output)
        for step in program.steps
    ]
    return in_turn(calls, program.result)


def in_turn(calls: Sequence[Call], result: int) -> Callable[[Tensor], Tensor]:
    """The calls one after another on value 0; a value is let go after its last use."""
    last = {n: i for i, (_, inputs, _) in enumerate(calls) for n in inputs}
    last[result] = len(calls)
    schedule = [
        (call, inputs, output, [n for n in set(inputs) if last[n] == i])
        for i, (call, inputs, output) in enumerate(calls)
    ]

    def run(x: Tensor) -> Tensor:
        values: dict[int, Any] = {0: x}
        for call, inputs, output, dead in schedule:
            values[output] = call(*[values[n] for n in inputs])
            for n in dead:
                del values[n]
        out: Tensor = values[result]
        return out

    return run

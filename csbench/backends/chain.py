"""A program run step by step with one callable for each convolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from csbench.backends.base import Run
from csbench.graph.program import Conv, Program


def chain(program: Program, lowered: Sequence[Run]) -> Callable[[Tensor], Tensor]:
    """The network as one callable; `lowered` in the order of `program.convolutions`."""
    last_use = program.last_use()
    calls = iter(lowered)
    schedule = [
        (next(calls) if isinstance(step.op, Conv) else step.op, step) for step in program.steps
    ]

    def run(x: Tensor) -> Tensor:
        values = {0: x}
        for i, (call, step) in enumerate(schedule):
            values[step.output] = call(*(values[n] for n in step.inputs))
            for n in set(step.inputs):
                if last_use[n] == i:
                    del values[n]
        return values[program.result]

    return run

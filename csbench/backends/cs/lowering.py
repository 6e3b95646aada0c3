"""What every path for whole networks needs whose kernels keep values in a form of their own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from csbench.backends.base import layer_report
from csbench.backends.chain import Call
from csbench.backends.cs.calibrate import Peak, calibrate
from csbench.core.case import Case
from csbench.core.record import LayerReport
from csbench.graph.program import Conv, Program, Step

# The largest calibrated magnitude is stored as at most 2^8: inputs may grow 2^7 times before the
# range of halves ends, and what a half rounds away stays exact for all but tiny numbers.
_CALIBRATED, _MOST = 2.0**8, 100


class Lowering:
    """Collects calls over numbered values, and reports of layers, for kernels to build on.

    A step's number holds its value in the form that its call gives; other forms of it have numbers
    of their own. Without `scaled` numbers are kept as they are.
    """

    def __init__(self, program: Program, case: Case, *, scaled: bool = True) -> None:
        self.program, self.case, self._scaled = program, case, scaled
        self.readers = _readers(program)
        self.calls: list[Call] = []
        self.reports: list[LayerReport] = []
        self._fresh = itertools.count(1 + max((s.output for s in program.steps), default=0))
        self._converted: dict[tuple[int, Hashable], int] = {}
        self._constants: dict[float, Tensor] = {}

    @cached_property
    def peaks(self) -> dict[int, Peak]:
        """The magnitudes that values take; found by running the network, when first asked for."""
        return calibrate(self.program, self.case)

    def converted(self, value: int, form: Hashable, run: Callable[..., Any]) -> int:
        """The number under which a value is found in another form, that `run` gives; made once."""
        if (value, form) not in self._converted:
            self._converted[value, form] = number = next(self._fresh)
            self.calls.append(Call(run, (value,), number))
        return self._converted[value, form]

    def alone(self, value: int, step: Step) -> bool:
        """Whether nothing but this step reads a value."""
        return self.readers[value] == [step] and value != self.program.result

    def scale(self, value: int) -> float:
        """The power of two that a value in halves is multiplied by."""
        return power_for(self.peaks[value].peak) if self._scaled else 1.0

    def constant(self, number: float) -> Tensor:
        """A number on the device."""
        if number not in self._constants:
            self._constants[number] = torch.tensor(number, device=self.case.device)
        return self._constants[number]

    def report(self, conv: Conv, size: int, algorithm: str | None, dense: str | None) -> None:
        """Say of a layer how many bytes its weights take, what runs, and why dense if it does."""
        self.reports.append(layer_report(conv, self.case, size, algorithm, dense))


def power_for(peak: float) -> float:
    """The power of two that brings a peak to at most 2^8; 1 where the peak says nothing."""
    if not 0 < peak < math.inf:
        return 1.0
    return 2.0 ** max(-_MOST, min(_MOST, math.floor(math.log2(_CALIBRATED / peak))))


def _readers(program: Program) -> dict[int, list[Step]]:
    """For each value the steps that read it."""
    readers: dict[int, list[Step]] = {step.output: [] for step in program.steps}
    for step in program.steps:
        for value in step.inputs:
            readers.setdefault(value, []).append(step)
    return readers

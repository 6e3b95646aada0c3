"""The gate before any timing: outputs are compared with a float64 reference, on fresh inputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from csbench.backends.poison import poisoned
from csbench.bench.capture import Inputs
from csbench.core.record import Check
from csbench.graph.reference import relative_error

Draw = Callable[[int], Inputs]
Subject = Callable[[Inputs], Tensor]


class Reference:
    """Inputs drawn from a seed and what they must give; each reference is computed once.

    `draw(seed)` gives float32 inputs on the CPU for a whole batch, which are rounded to `dtype`
    before both sides see them. The float64 result is computed for the first and the last image
    only: images do not depend on each other, and a large batch would take minutes.
    """

    def __init__(
        self, exact: Callable[..., Tensor], draw: Draw, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._exact, self._draw = exact, draw
        self._dtype, self._device = dtype, device
        self._known: dict[int, Tensor] = {}

    def inputs(self, seed: int) -> Inputs:
        """Inputs for a whole batch, in the precision and on the device that is measured."""
        return tuple(x.to(self._dtype).to(self._device) for x in self._draw(seed))

    def error(self, subject: Subject, seed: int) -> float:
        """Relative error on the inputs of one seed; infinite for NaN or a wrong shape."""
        inputs = self.inputs(seed)
        batch = inputs[0].shape[0]
        some = [0] if batch == 1 else [0, batch - 1]
        if seed not in self._known:
            self._known[seed] = self._exact(*(x[some].cpu() for x in inputs))
        got = subject(inputs)
        if got.shape[0] != batch:
            return float("inf")
        return relative_error(got[some], self._known[seed])


def check(reference: Reference, subject: Subject, tolerance: float, seed: int) -> Check:
    """Compare a subject with the reference while all fresh memory holds NaN.

    What reads memory that it did not write gives NaN, which never passes.
    """
    with poisoned():
        return Check(reference.error(subject, seed), tolerance)


def passed(result: Check) -> bool:
    """Whether an output is right; an error that is no number is not."""
    return result.relative_error is not None and result.relative_error <= result.tolerance

"""The gate before any timing: outputs are compared with a float64 reference, on fresh inputs."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from csbench.backends.base import TORCH_DTYPE
from csbench.backends.poison import poisoned
from csbench.bench.capture import Inputs
from csbench.core.record import Check
from csbench.core.tolerance import tolerance
from csbench.graph.reference import relative_error

Draw = Callable[[int], Inputs]
Exact = Callable[[Inputs, torch.dtype], Tensor]
Subject = Callable[[Inputs], Tensor]

# How much further off than torch's plain operations an output may be, where those miss the limit.
ALLOWANCE = 2.0


class Reference:
    """Inputs drawn from a seed and what they must give; each result is computed once.

    `draw(seed)` gives float32 inputs on the CPU for a whole batch, which are rounded to the
    precision before both sides see them. `exact(inputs, dtype)` is the plain computation in any
    type. It is done for the first and the last image only: images do not depend on each other, and
    a large batch would take minutes.
    """

    def __init__(self, exact: Exact, draw: Draw, dtype: str, device: torch.device) -> None:
        self.dtype = dtype
        self._exact, self._draw, self._device = exact, draw, device
        self._known: dict[int, Tensor] = {}

    def inputs(self, seed: int) -> Inputs:
        """Inputs for a whole batch, in the precision and on the device that is measured.

        They are the caller's own: what writes to them writes to nobody else's.
        """
        kind = TORCH_DTYPE[self.dtype]
        return tuple(x.to(self._device, kind, copy=True) for x in self._draw(seed))

    def error(self, subject: Subject, seed: int) -> float:
        """Relative error on the inputs of one seed; infinite for NaN or a wrong shape."""
        inputs = self.inputs(seed)
        got, batch = subject(inputs), inputs[0].shape[0]
        return relative_error(_ends(got), self._expected(seed)) if len(got) == batch else math.inf

    def plain_error(self, seed: int) -> float:
        """Relative error of torch's plain operations on the CPU in this precision.

        For tf32 in fp16, which has its precision and runs on a CPU.
        """
        dtype = torch.float16 if self.dtype == "tf32" else TORCH_DTYPE[self.dtype]
        inputs = tuple(x.to(dtype) for x in self._some(seed))
        return relative_error(self._exact(inputs, dtype), self._expected(seed))

    def _expected(self, seed: int) -> Tensor:
        if seed not in self._known:
            self._known[seed] = self._exact(self._some(seed), torch.float64)
        return self._known[seed]

    def _some(self, seed: int) -> Inputs:
        return tuple(_ends(x).cpu() for x in self.inputs(seed))


class Gate:
    """What an output must pass before and after it is timed.

    The limit is the precision's tolerance. A deep network may multiply rounding errors until no
    execution in that precision keeps it: then twice the error of torch's plain operations on the
    same network and inputs is allowed, and the check says which limit held. A limit that the user
    gives (`rtol`) is never raised.
    """

    def __init__(self, reference: Reference, rtol: float | None) -> None:
        self._reference = reference
        self._limit = tolerance(reference.dtype) if rtol is None else rtol
        self._fixed = rtol is not None

    def poisoned(self, subject: Subject, seed: int) -> Check:
        """Compare while fresh memory holds NaN, so that what reads it unwritten fails."""
        with poisoned():
            error = self._reference.error(subject, seed)
        return self._judged(error, seed)

    def fresh(self, subject: Subject, seed: int) -> Check:
        """Compare on the inputs of one seed."""
        return self._judged(self._reference.error(subject, seed), seed)

    def _judged(self, error: float, seed: int) -> Check:
        if self._limit < error < math.inf and not self._fixed:
            plain = self._reference.plain_error(seed)
            if plain < math.inf:
                self._limit = max(self._limit, ALLOWANCE * plain)
        return Check(error, self._limit)


def passed(result: Check) -> bool:
    """Whether an output is right; an error that is no number is not."""
    return result.relative_error is not None and result.relative_error <= result.tolerance


def _ends(x: Tensor) -> Tensor:
    """The first and the last image of a batch."""
    return x if len(x) == 1 else x[[0, len(x) - 1]]

"""The gate before any timing: outputs are compared with a float64 reference, on fresh inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from csbench.backends.base import TORCH_DTYPE
from csbench.backends.poison import poisoned
from csbench.bench.capture import Inputs, Replay
from csbench.core.record import Check
from csbench.core.tolerance import tolerance
from csbench.graph.reference import relative_error

Draw = Callable[[int], Inputs]
Exact = Callable[[Inputs, torch.dtype], Tensor]
Subject = Callable[[Inputs], Tensor]

# How much further off than torch's plain operations an output may be, where those miss the limit.
ALLOWANCE = 2.0
_DISTINCT = 3  # images in a batch that is checked


class Reference:
    """Inputs drawn from a seed and what they must give; each result is computed once.

    `draw(seed)` gives float32 inputs on the CPU for a whole batch, which are rounded to the
    precision before both sides see them. `exact(inputs, dtype)` is the plain computation in any
    type. A large batch would take it minutes, so a batch that is checked is mixed from a few
    images: images do not depend on each other, and each of them is compared.
    """

    def __init__(self, exact: Exact, draw: Draw, dtype: str, device: torch.device) -> None:
        self.dtype = dtype
        self._exact, self._draw, self._device = exact, draw, device
        self._known: dict[int, Tensor] = {}

    def inputs(self, seed: int) -> Inputs:
        """Inputs for a whole batch, in the precision and on the device that is measured.

        They are the caller's own: what writes to them writes to nobody else's.
        """
        return self._placed(self._draw(seed))

    def mixed(self, seed: int) -> Inputs:
        """The same for a batch of a few images, repeated in an order that the seed decides."""
        drawn = self._draw(seed)
        order = _order(len(drawn[0]), seed)
        return self._placed(tuple(x[order] for x in drawn))

    def error(self, subject: Subject, seed: int) -> float:
        """What `off` says of a subject's output."""
        return self.off(subject(self.mixed(seed)), seed)

    def off(self, got: Tensor, seed: int) -> float:
        """The largest relative error of an image of the mixed batch; infinite for NaN or a wrong
        shape."""
        batch = len(self._draw(seed)[0])
        return _largest_error(got, self._expected(seed), _order(batch, seed))

    def plain_error(self, seed: int) -> float:
        """The same of torch's plain operations on the CPU in this precision.

        For tf32 in fp16, which has its precision and runs on a CPU.
        """
        dtype = torch.float16 if self.dtype == "tf32" else TORCH_DTYPE[self.dtype]
        got = self._exact(tuple(x.to(dtype) for x in self._some(seed)), dtype)
        return _largest_error(got, self._expected(seed), torch.arange(len(got)))

    def _expected(self, seed: int) -> Tensor:
        if seed not in self._known:
            self._known[seed] = self._exact(self._some(seed), torch.float64)
        return self._known[seed]

    def _some(self, seed: int) -> Inputs:
        """The images that a batch is mixed from, as the device sees them."""
        few = tuple(x[:_DISTINCT] for x in self._draw(seed))
        return tuple(x.cpu() for x in self._placed(few))

    def _placed(self, inputs: Inputs) -> Inputs:
        kind = TORCH_DTYPE[self.dtype]
        return tuple(x.to(self._device, kind, copy=True) for x in inputs)


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

    def replayed(self, replay: Replay, seed: int) -> Iterator[Check]:
        """Compare what each of the graphs gives that are timed."""
        inputs = self._reference.mixed(seed)
        for turn in range(replay.turns):
            yield self._judged(self._reference.off(replay.fresh(inputs, turn), seed), seed)

    def _judged(self, error: float, seed: int) -> Check:
        if self._limit < error < math.inf and not self._fixed:
            plain = self._reference.plain_error(seed)
            if plain < math.inf:
                self._limit = max(self._limit, ALLOWANCE * plain)
        return Check(error, self._limit)


def passed(result: Check) -> bool:
    """Whether an output is right; an error that is no number is not."""
    return result.relative_error is not None and result.relative_error <= result.tolerance


def _order(batch: int, seed: int) -> Tensor:
    """Which of the few images stands at each place of a batch; each of them somewhere."""
    draw = torch.Generator().manual_seed(seed)
    few = min(batch, _DISTINCT)
    others = torch.randint(few, (batch - few,), generator=draw)
    return torch.cat([torch.arange(few), others])[torch.randperm(batch, generator=draw)]


def _largest_error(out: Tensor, expected: Tensor, order: Tensor) -> float:
    """Over the images of a batch; `order` says which of the expected ones each of them is."""
    if out.shape != (len(order), *expected.shape[1:]):
        return math.inf
    known = expected.to(out.device)
    pairs = zip(out, order.tolist(), strict=True)
    errors = [relative_error(image, known[which]) for image, which in pairs]
    return max(error if error < math.inf else math.inf for error in errors)  # NaN too

"""What is wrong with an output: the most telling reason that explains it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from csbench.backends.conformance.report import Reason
from csbench.core.tolerance import tolerance
from csbench.graph.reference import relative_error

CLOSE = 0.05  # below this relative error a result is inaccurate, above it is another number
PATIENCE_S = 1.0  # how long an output may still change after the call, once it was found wrong


@dataclass(frozen=True)
class Fault:
    """A reason, what was seen, and the relative error where there is one."""

    reason: Reason
    detail: str


def diagnose(out: object, expected: Tensor, like: Tensor, dtype: str) -> Fault | None:
    """What is wrong with `out`, which should be `expected` in the type and device of `like`."""
    if type(out) is not Tensor:
        kind = f"{type(out).__module__}.{type(out).__qualname__}"
        return Fault("lazy-output", f"the output is a {kind}; expected a plain torch.Tensor")
    if out.is_conj() or out.is_neg() or out.layout != torch.strided:
        return Fault("lazy-output", "the output still carries an operation to be done on reading")
    if (out.shape, out.dtype, out.device) != (expected.shape, like.dtype, like.device):
        return Fault(
            "wrong-shape",
            f"the output is {_kind(out)}; expected "
            f"{_kind(expected.to('meta', like.dtype))} on {like.device}",
        )
    limit = tolerance(dtype)
    error = relative_error(out, expected)
    if error <= limit:
        return None
    missing = int(torch.isnan(out).sum())
    if missing and torch.isfinite(expected).all():
        share = "all" if missing == out.numel() else f"{missing} of {out.numel()}"
        return Fault("never-written", f"{share} numbers of the output are what its memory held")
    if _reordered(out, expected) <= limit:
        return Fault("wrong-stride", "the numbers lie in another memory order than the strides say")
    if relative_error(_by_channel(out.cpu().double()), _by_channel(expected)) <= limit:
        return Fault("wrong-permutation", "the output channels are right but in another order")
    reason: Reason = "inaccurate" if error < CLOSE else "wrong-result"
    return Fault(reason, f"relative error {error:.1e}, allowed {limit:.0e}")


def settles(out: Tensor, expected: Tensor, dtype: str) -> bool:
    """Whether a wrong output becomes right by waiting: the call returned before its work."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        if out.is_cuda:
            torch.cuda.synchronize(out.device)
        if relative_error(out, expected) <= tolerance(dtype):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)


def drift(out: Tensor, expected: Tensor) -> float:
    """By how much the output is too large (a share); rounding averages out, a wrong factor not."""
    got = out.detach().cpu().double()
    return float(((got - expected) * expected).sum() / (expected * expected).sum())


def _reordered(out: Tensor, expected: Tensor) -> float:
    """The error of the output's memory read in the other of the two common orders."""
    if expected.dim() != 4:
        return float("inf")
    n, c, h, w = expected.shape
    readings: list[Callable[[Tensor], Tensor]] = []
    if out.is_contiguous():
        readings.append(lambda t: t.reshape(n, h, w, c).permute(0, 3, 1, 2))
        readings.append(lambda t: t.reshape(n, c, w, h).transpose(2, 3))
    if out.is_contiguous(memory_format=torch.channels_last):
        readings.append(lambda t: t.permute(0, 2, 3, 1).reshape(n, c, h, w))
    return min((relative_error(read(out), expected) for read in readings), default=float("inf"))


def _by_channel(x: Tensor) -> Tensor:
    """Channels sorted by their norm: equal for two tensors that differ in their order alone."""
    order = torch.linalg.vector_norm(x.transpose(0, 1).flatten(1), dim=1).argsort()
    return x[:, order]


def _kind(x: Tensor) -> str:
    where = "" if x.is_meta else f" on {x.device}"
    return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}{where}"

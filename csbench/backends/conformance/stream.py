"""On a GPU: all work is ordered on torch's current stream."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from csbench.backends.conformance.diagnosis import diagnose
from csbench.backends.conformance.report import NotApplicable, Rejected
from csbench.backends.conformance.subject import Lowered, Subject

DELAY_CYCLES = 50_000_000  # about 30 ms: the input is written that much after the call


def stream(subject: Subject) -> str:
    """An input that comes late is waited for, and a captured graph holds all of the work."""
    if not subject.device.startswith("cuda"):
        raise NotApplicable("a CPU has no streams")
    captured = 0
    side: Any = torch.cuda.Stream(subject.device)  # type: ignore[no-untyped-call]
    for low in subject.lowered:
        _late_input(low, subject, side)
        captured += _graph(low, subject, side)
    eager = len(subject.lowered) - captured
    return f"late inputs; {captured} layers captured" + (f", {eager} eager only" if eager else "")


def _late_input(low: Lowered, subject: Subject, side: Any) -> None:
    inputs = low.trial.inputs(subject.seed + 50)
    late = tuple(torch.full_like(x, float("nan")) for x in inputs)
    torch.cuda.synchronize(subject.device)
    sleep: Any = torch.cuda._sleep
    with torch.cuda.stream(side):
        sleep(DELAY_CYCLES)
        for empty, x in zip(late, inputs, strict=True):
            empty.copy_(x)
        got = low(late).clone()
    side.synchronize()
    _require(got, low, inputs, subject, "it does not wait for the current stream, or runs past it")
    torch.cuda.synchronize(subject.device)


def _graph(low: Lowered, subject: Subject, side: Any) -> bool:
    """Capture a call, replay it on new numbers; False where the backend cannot be captured."""
    static = low.trial.inputs(subject.seed + 51)
    fresh = low.trial.inputs(subject.seed + 52)
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize(subject.device)
    with torch.cuda.stream(side):
        low(static)  # warm-up, on the stream that captures
    torch.cuda.synchronize(subject.device)
    try:
        with torch.cuda.graph(graph, stream=side):
            out = low.run(*static)
    except RuntimeError as error:
        torch.cuda.synchronize(subject.device)
        if "unjoined" in str(error):
            raise Rejected(
                "other-stream", f"a captured call leaves work on another stream ({low.trial.name})"
            ) from error
        return False
    for x, new in zip(static, fresh, strict=True):
        x.copy_(new)
    out.fill_(float("nan"))
    graph.replay()
    torch.cuda.synchronize(subject.device)
    _require(out, low, fresh, subject, "work is left out of a captured CUDA graph")
    return True


def _require(
    out: Tensor, low: Lowered, inputs: tuple[Tensor, ...], subject: Subject, what: str
) -> None:
    fault = diagnose(out, low.expected(inputs), inputs[0], subject.dtype)
    if fault is not None:
        raise Rejected("other-stream", f"{what}: {fault.detail} ({low.trial.name})")

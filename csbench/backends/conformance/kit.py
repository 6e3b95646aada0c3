"""Runs the checks in an order in which the first failure is the most telling one."""

from __future__ import annotations

from collections.abc import Callable

from csbench.backends.base import Backend
from csbench.backends.conformance import checks, network, stream, zeros
from csbench.backends.conformance.report import NotApplicable, Outcome, Rejected, Report
from csbench.backends.conformance.subject import Subject
from csbench.core.pattern import PatternSpec, parse

CHECKS = {
    "declarations": checks.declarations,
    "layers": checks.layers,
    "output": checks.output,
    "inputs kept": checks.inputs_kept,
    "memory": checks.memory,
    "fresh inputs": checks.fresh_inputs,
    "correctness": checks.correctness,
    "input formats": checks.input_formats,
    "determinism": checks.determinism,
    "zeros": zeros.zeros,
    "stream": stream.stream,
    "network": network.network,
}


def run(
    backend: Backend, *, device: str, dtype: str, pattern: str | PatternSpec, seed: int = 0
) -> Report:
    """Put a backend through every check on one device, in one precision, on one pattern."""
    spec = parse(pattern) if isinstance(pattern, str) else pattern
    subject = Subject(backend, device, dtype, spec, seed)
    outcomes = []
    for name, check in CHECKS.items():
        outcomes.append(_outcome(name, check, subject))
        if outcomes[-1].status == "failed" and name in ("declarations", "layers"):
            break  # nothing else can be tried
    return Report(
        backend=backend.name, device=device, dtype=dtype, pattern=str(spec),
        outcomes=tuple(outcomes),
    )  # fmt: skip


def _outcome(name: str, check: Callable[[Subject], str], subject: Subject) -> Outcome:
    try:
        return Outcome(check=name, status="ok", detail=check(subject))
    except NotApplicable as why:
        return Outcome(check=name, status="skipped", detail=str(why))
    except Rejected as found:
        return Outcome(check=name, status="failed", reason=found.reason, detail=found.detail)
    except Exception as error:  # work on a GPU fails after the call that queued it
        line = (str(error).strip().splitlines() or [""])[0]
        detail = f"{type(error).__name__}: {line}"
        return Outcome(check=name, status="failed", reason="raises", detail=detail)

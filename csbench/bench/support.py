"""Whether a case can run on this device at all, told before anything is built."""

from __future__ import annotations

from csbench.backends import registry
from csbench.backends.base import Backend
from csbench.bench.draft import Outcome
from csbench.core.case import NO_BACKEND, Case


def able(case: Case) -> Backend:
    """The case's backend if it and the baseline can run here; raises Outcome("unsupported")."""
    pattern = family(case)
    if case.backend == NO_BACKEND:
        raise Outcome(
            "unsupported",
            f"no backend runs pattern '{pattern}'; see csbench backends list, or time it densely "
            "with --backend masked",
        )
    backend, baseline = registry.get(case.backend), registry.get(case.baseline)
    reason = not_here(backend, case)
    if reason is not None:
        reason += _instead(backend, case)
    reason = reason or backend.missing(case.device)
    if reason is None and not {pattern, "dense"} & backend.patterns:
        reason = f"{backend.name} runs {_either(backend.patterns)}, not {pattern}"
    if reason is None:
        lack = not_here(baseline, case) or baseline.missing(case.device)
        reason = lack and f"baseline {case.baseline}: {lack}"
    if reason is not None:
        raise Outcome("unsupported", reason)
    return backend


def not_here(backend: Backend, case: Case) -> str | None:
    """Why a backend is not made for the case's device or precision; None when it is."""
    if case.device not in backend.devices:
        return f"{backend.name} runs on {_either(backend.devices)}, not on {case.device}"
    known = registry.dtypes(backend, case.device)
    if case.dtype not in known:
        return f"{backend.name} runs {_either(known)} on {case.device}, not {case.dtype}"
    return None


def _instead(backend: Backend, case: Case) -> str:
    """What runs the pattern of a GPU's backend on a CPU."""
    pattern = family(case)
    if case.device in backend.devices or case.device != "cpu" or pattern not in backend.patterns:
        return ""
    general = (name for name in registry.GENERAL if pattern in registry.get(name).patterns)
    made_for = registry.for_pattern(pattern, case.device, case.dtype)
    able_to = [n for n in (*made_for, *general) if not_here(registry.get(n), case) is None]
    return f"; on a CPU --backend {able_to[0]} runs this pattern" if able_to else ""


def family(case: Case) -> str:
    """The name of the case's pattern without parameters: `block` of `block:32x32`."""
    return case.pattern.partition(":")[0]


def _either(names: frozenset[str]) -> str:
    return " and ".join(sorted(names))

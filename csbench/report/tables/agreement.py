"""Why CS over N:M agrees with the published ratio of training hours or not, from the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from csbench.report.rows import Estimate
from csbench.report.trained import Trained, beside, over_nm

_NEAR = 0.01  # hours that differ by less are the same to somebody who plans a training
_CLOSE = 0.2  # of a step: a GPU that has less to do is waiting for the host most of the time


def agreement(one: Trained, others: Sequence[Trained], hours: Mapping[str, float]) -> str | None:
    """A paragraph about a CS record; None where no N:M of the same setting stands beside it."""
    found, nm = over_nm(one, others), beside(one, others, "nm")
    if found is None or nm is None:
        return None
    said = [
        _verdict(one, found, hours["cs"] / hours["nm"]),
        _parts(one, nm),
        _authors(nm, beside(one, others, "nm-argsort")),
        _waiting(one),
    ]
    return " ".join(sentence for sentence in said if sentence)


def _verdict(one: Trained, found: Estimate, published: float) -> str:
    apart = found.value / published - 1
    verdict = "agree" if abs(apart) < _NEAR else "do not agree"
    within = f" [{found.low:.3f}, {found.high:.3f}]" if found.low and found.high else ""
    ranks = f" on each of {one.asked.ranks} ranks" if one.asked.ranks > 1 else ""
    return (
        f"CS over N:M at batch {one.row.case.batch}{ranks}: {found.value:.3f}{within} projected, "
        f"{published:.3f} published; {100 * abs(apart):.1f} % apart, they {verdict}."
    )


def _parts(one: Trained, nm: Trained) -> str:
    flops = "" if one.flops is None else f" ({one.flops:.2f} of dense for CS)"
    return (
        f"Both run the same dense convolutions, whatever the theoretical FLOPs{flops}, because "
        f"zeros are multiplied all the same: forward and backward take {_convolutions(one):.1f} ms "
        f"of a step in CS and {_convolutions(nm):.1f} ms in N:M. What the schemes add takes "
        f"{_added(one):.2f} ms in CS (masks, re-selection spread over the schedule) and "
        f"{_added(nm):.2f} ms in N:M (masks chosen in every step, regulariser)."
    )


def _convolutions(one: Trained) -> float:
    return sum(one.split_ms.get(part, 0.0) for part in ("forward", "backward"))


def _added(one: Trained) -> float:
    own = sum(one.split_ms.get(part, 0.0) for part in ("mask", "regulariser"))
    return own + (one.events_ms or 0.0)


def _authors(nm: Trained, theirs: Trained | None) -> str | None:
    """The source's other claim, that N:M's epochs are long, and what it holds for."""
    if theirs is None or theirs.overhead is None or nm.overhead is None:
        return None
    return (
        "The source finds an epoch of N:M much longer than others: as its authors wrote it "
        f"(nm-argsort) a step takes {100 * theirs.overhead.value:.1f} % longer than a dense one, "
        f"with masks and regulariser fused {100 * nm.overhead.value:.1f} %."
    )


def _waiting(one: Trained) -> str | None:
    """Whether the host, which launches the kernels, is what takes the time."""
    ahead, step = one.split_ms.get("ahead"), one.step_ms
    if ahead is None or step is None or ahead > _CLOSE * step.value:
        return None
    return (
        f"When the host has queued a step of CS ({step.value:.1f} ms), the GPU has {ahead:.1f} ms "
        "of it left: launching the kernels takes the time, not the GPU."
    )

"""Why CS over N:M agrees with the published ratio of training hours or not, from the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from csbench.report.rows import Estimate
from csbench.report.trained import Trained, beside, over_nm

_NEAR = 0.01  # hours that differ by less are the same to somebody who plans a training
_WAITING = 1.3  # times as long for an image as at a larger batch: not arithmetic alone


def agreement(one: Trained, others: Sequence[Trained], hours: Mapping[str, float]) -> str | None:
    """A paragraph about a CS record; None where no N:M of the same setting stands beside it."""
    found, nm = over_nm(one, others), beside(one, others, "nm")
    if found is None or nm is None:
        return None
    said = [
        _verdict(one, found, hours["cs"] / hours["nm"]),
        _parts(one, nm),
        _authors(nm, beside(one, others, "nm-argsort")),
        _waiting(one, others),
    ]
    return " ".join(sentence for sentence in said if sentence)


def _verdict(one: Trained, found: Estimate, published: float) -> str:
    apart = found.value / published - 1
    verdict = "agree" if abs(apart) < _NEAR else "do not agree"
    within = f" [{found.low:.3f}, {found.high:.3f}]" if found.low and found.high else ""
    return (
        f"CS over N:M at batch {one.row.case.batch}: {found.value:.3f}{within} projected, "
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


def _waiting(one: Trained, others: Sequence[Trained]) -> str | None:
    """Whether a small batch measures the launching of kernels."""
    alike = [o for o in others if o.scheme == one.scheme]
    alike = [o for o in alike if o.setting_but_batch == one.setting_but_batch]
    times = {o.row.case.batch: o.step_ms.value / o.row.case.batch for o in alike if o.step_ms}
    own, most = times.get(one.row.case.batch), max(times, default=0)
    if own is None or own < _WAITING * times[most]:
        return None
    return (
        f"An image takes {own / times[most]:.1f} times as long as at batch {most}: the GPU waits "
        "for the host to launch its kernels, in both."
    )

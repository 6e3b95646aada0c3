"""Why CS over N:M agrees with the published ratio of training hours or not, from the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from csbench.core.statistics import median
from csbench.report.rows import Estimate, ratio
from csbench.report.trained import Trained, beside, over_nm

_NEAR = 0.01  # hours that differ by less are the same to somebody who plans a training
_THEIRS = ("resnet50", "imagenet")  # what the published hours are of, as far as the source tells
_CLOSE = 0.2  # of a step: a GPU that has less to do is waiting for the host most of the time


def agreement(one: Trained, others: Sequence[Trained], hours: Mapping[str, float]) -> str | None:
    """A paragraph about a CS record; None where no N:M of the same setting stands beside it."""
    found, nm = over_nm(one, others), beside(one, others, "nm")
    if found is None or nm is None:
        return None
    said = [
        _verdict(one, nm, found, hours["cs"] / hours["nm"]),
        _parts(one, nm),
        _authors(nm, beside(one, others, "nm-argsort")),
        _waiting(one),
    ]
    return " ".join(sentence for sentence in said if sentence)


def is_theirs(one: Trained) -> bool:
    """Whether the published hours are of this network and data, as far as the source tells."""
    return (one.row.case.model, one.asked.dataset) == _THEIRS


def _verdict(one: Trained, nm: Trained, found: Estimate, published: float) -> str:
    within = f" [{found.low:.3f}, {found.high:.3f}]" if found.low and found.high else ""
    ranks = f" on each of {one.asked.ranks} ranks" if one.asked.ranks > 1 else ""
    begun = f"CS over N:M at batch {one.row.case.batch}{ranks}: {found.value:.3f}{within} projected"
    if not is_theirs(one):
        return f"{begun}; the published {published:.3f} is of ResNet50 on ImageNet, not of this."
    apart = found.value / published - 1
    begun += f", {published:.3f} published; {100 * abs(apart):.1f} % apart, "
    if abs(apart) < _NEAR:
        return f"{begun}they agree."
    return begun + (_untold(one, nm, published) or "they do not agree.")


def _untold(one: Trained, nm: Trained, published: float) -> str | None:
    """Why a difference in hours counts for nothing; None where it does.

    The hours come from two runs, one after the other, and between them the machine may become
    slower. Dense steps were timed in turn with both, so that the ratio of the two ratios to dense
    is free of that.
    """
    cs_cost, nm_cost = _over_dense(one), _over_dense(nm)
    if cs_cost is None or nm_cost is None:
        return None
    in_turn = ratio(cs_cost, nm_cost)
    if in_turn.low is None or in_turn.high is None or not in_turn.low <= published <= in_turn.high:
        return None
    then, now = (median(_dense_samples(probe)) for probe in (nm, one))
    return (
        "but not told apart: the two were timed one after the other, while dense steps took "
        f"{then:.1f} ms beside N:M and {now:.1f} ms beside CS; over the dense steps in turn with "
        f"each the ratio is {in_turn.value:.3f} [{in_turn.low:.3f}, {in_turn.high:.3f}]."
    )


def _over_dense(one: Trained) -> Estimate | None:
    """Steps, mask updates included, over the dense steps in turn with them."""
    over = one.overhead
    dense = _dense_samples(one)
    if over is None or not dense:
        return None
    all_else = 1 + (one.events_ms or 0.0) / median(dense)
    return Estimate(*(None if end is None else end + all_else for end in over))  # type: ignore[arg-type]


def _dense_samples(one: Trained) -> list[float]:
    phases = one.probed.phases if one.probed else ()
    return [sample for phase in phases for sample in phase.dense_samples_ms]


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

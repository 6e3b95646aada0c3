"""Which batch would fit, from the memory that small batches were measured to take."""

from __future__ import annotations

from msgspec.structs import replace

from csbench.bench.memory import SHARE, capacity, in_use, let_go, out_of_memory, peak_of
from csbench.core.case import Case
from csbench.training.ranks import Ranks
from csbench.training.setup import Options, Setup


def suggestion(case: Case, options: Options) -> str:
    """A line about the largest batch that would fit, by two small batches' peaks."""
    few, more = max(1, case.batch // 16), max(2, case.batch // 8)
    peaks = [_peak(replace(case, batch=batch), options) for batch in (few, more)]
    if peaks[0] is None:
        return f"not even a batch of {few} fits; take a smaller --model or --input-size"
    if peaks[1] is None:
        return f"a batch of {few} fits; type -b {few}"
    each = max(1.0, (peaks[1] - peaks[0]) / (more - few))
    fits = few + int((SHARE * capacity(case.device) - peaks[0]) / each)
    if not more < fits < case.batch:  # the peaks of small batches tell too little
        return f"a batch of {more} fits; type -b {more}"
    fits -= fits % 8 if fits > 8 else 0
    return f"about {each / 2**20:.0f} MiB an image: a batch of {fits} should fit; type -b {fits}"


def _peak(case: Case, options: Options) -> int | None:
    """Bytes that a step of this batch needs at most; None where it does not fit."""
    let_go()
    try:
        setup = Setup(case, options._replace(save=None), Ranks())
        source, before = setup.source(), in_use(case.device)
        trainer = setup.trainer()
        trainer.step(source.batch())  # from now on the momentum is there
        return peak_of(lambda: trainer.step(source.batch()), case.device, before)
    except Exception as error:
        if out_of_memory(error):
            return None
        raise

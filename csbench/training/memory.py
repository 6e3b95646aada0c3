"""Which batch would fit, from the memory that small batches were measured to take."""

from __future__ import annotations

import gc
from pathlib import Path

import torch
from msgspec.structs import replace

from csbench.bench.memory import in_use, peak_of
from csbench.core.case import Case
from csbench.training.ranks import Ranks
from csbench.training.setup import Options, Setup

_SHARE = 0.95  # of the memory: the allocator's pieces do not fit together perfectly


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on a CPU."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def suggestion(case: Case, options: Options) -> str:
    """A line about the largest batch that would fit, by two small batches' peaks."""
    few, more = max(1, case.batch // 16), max(2, case.batch // 8)
    peaks = [_peak(replace(case, batch=batch), options) for batch in (few, more)]
    if peaks[0] is None:
        return f"not even a batch of {few} fits; take a smaller --model or --input-size"
    if peaks[1] is None:
        return f"a batch of {few} fits; type -b {few}"
    each = (peaks[1] - peaks[0]) / (more - few)
    fixed = peaks[0] - few * each
    if each <= 0:
        return f"a batch of {more} fits; type -b {more}"
    fits = int((_SHARE * capacity(case.device) - fixed) / each)
    fits = max(few, min(case.batch - 1, fits))
    fits -= fits % 8 if fits > 8 else 0
    return f"about {each / 2**20:.0f} MiB an image: a batch of {fits} should fit; type -b {fits}"


def capacity(device: str) -> int:
    """Bytes of the GPU, or of the machine's free memory."""
    if device == "cuda":
        total: int = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        return total
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _peak(case: Case, options: Options) -> int | None:
    """Bytes that a step of this batch needs at most; None where it does not fit."""
    gc.collect()
    if case.device == "cuda":
        torch.cuda.empty_cache()
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

"""What a case came to: one record, one JSON line, versioned."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from csbench.core.case import Case
from csbench.core.training import TrainingReport

SCHEMA = 1  # 1: first version

Status = Literal["ok", "noisy", "invalid", "wrong", "unsupported", "oom", "timeout", "error"]
MEASURED = ("ok", "noisy", "invalid")  # statuses that carry a time


class Measurement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Raw samples in the order taken; `samples_ms[i]` and `baseline_samples_ms[i]` are a pair.

    Both networks were lowered `copies` times, to lie at different addresses; pair i was taken on
    copy i mod `copies` of each. Statistics are derived (csbench.core.statistics), never stored.
    """

    mode: Literal["graph", "eager"]
    cache: Literal["cold", "warm"]
    warmup: int
    samples_ms: tuple[float, ...]
    baseline_samples_ms: tuple[float, ...] = ()
    copies: int = 1
    throttled: tuple[int, ...] = ()  # indices of pairs taken while the clock was held down
    # Every dense way measured beside the baseline, by backend and precision ("cudnn fp16"), and why
    # others that were tried have no time.
    dense_samples_ms: dict[str, tuple[float, ...]] = {}
    dense_left_out: dict[str, str] = {}
    # Of records written before those two: the median of the best way alone, and which it was.
    dense_best_ms: float | None = None
    dense_best: str | None = None


class Check(msgspec.Struct, frozen=True):
    """The comparison with the float64 reference that precedes every timing."""

    relative_error: float | None
    tolerance: float


class LayerReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What ran in one layer: `sparse`, or `dense` and why; bytes of weights as stored, FLOPs done.

    `floor_ms` is the time that the device's measured ceilings allow it at best; `note` what must
    be known to read a layer's own time.
    """

    name: str
    ran: Literal["sparse", "dense"]
    reason: str | None = None
    bytes: int = 0
    flops: int = 0
    algorithm: str | None = None
    floor_ms: float | None = None
    note: str | None = None


class Sparsity(msgspec.Struct, frozen=True):
    """Both sparsities: of the layers that carry the pattern, and of the whole model."""

    layers: float
    model: float


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """The outcome of one case, with everything needed to trust and repeat it.

    `mask_ms` is what finding the pattern's mask and pruning took, once for all cases that share
    the weights (unset where nothing was searched: dense networks, checkpoints, older records);
    `prepare_ms` what lowering took after it.
    """

    schema: int = SCHEMA
    created: str
    key: str
    case: Case
    status: Status
    reason: str | None = None
    measurement: Measurement | None = None
    check: Check | None = None
    layers: tuple[LayerReport, ...] = ()
    sparsity: Sparsity | None = None
    mask_ms: float | msgspec.UnsetType = msgspec.UNSET
    prepare_ms: float | None = None
    peak_bytes: int | None = None
    training: TrainingReport | msgspec.UnsetType = msgspec.UNSET  # of the task "train-step"
    env: dict[str, Any] = {}

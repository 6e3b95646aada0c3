"""One thing to measure: a case is a value, and its key names it in a record file."""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from csbench.core.training import TrainSettings

Task = Literal["infer", "train-step", "layer"]
DTYPES = ("fp32", "tf32", "fp16", "bf16")
# Stands for the backend of a case whose pattern no backend runs: its record says so.
NO_BACKEND = "none"


class CheckpointRef(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the weights come from: a file and its hash, or the seed of synthetic weights."""

    path: str | None = None
    sha256: str | None = None
    seed: int | None = None


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A backend on a model at one sparsity, against one baseline, on one device.

    `pattern` is the family (`block:32x32`, `cs`); `sparsity` a fraction; `input` is (C, H, W);
    `layer` names the convolution when `task` is "layer". `training` belongs to "train-step" alone
    (there `backend` is the scheme) and is left out of other cases, so that their keys stay.
    """

    task: Task = "infer"
    model: str
    pattern: str
    sparsity: float
    backend: str
    baseline: str
    device: str
    dtype: str = "fp32"
    batch: int = 1
    input: tuple[int, int, int] = (3, 224, 224)
    checkpoint: CheckpointRef = CheckpointRef()
    layer: str | None = None
    training: TrainSettings | msgspec.UnsetType = msgspec.UNSET

    @property
    def dense(self) -> Case:
        """What is left without the pattern: cases alike in it have the same dense network."""
        return msgspec.structs.replace(self, backend="", pattern="", sparsity=0.0)

    @property
    def key(self) -> str:
        """Twelve hex digits that name this case; a checkpoint counts by its hash, not its path."""
        file = CheckpointRef(sha256=self.checkpoint.sha256, seed=self.checkpoint.seed)
        if file.sha256 is None and file.seed is None:
            file = self.checkpoint
        identity = msgspec.structs.replace(self, checkpoint=file)
        return hashlib.sha256(msgspec.json.encode(identity, order="sorted")).hexdigest()[:12]

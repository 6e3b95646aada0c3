"""The data sets by name: image size, classes, how many images. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from csbench.errors import UsageError, unknown


@dataclass(frozen=True)
class Dataset:
    """What a schedule has to know of a data set; `input` None is the model's own image size."""

    name: str
    input: tuple[int, int, int] | None
    classes: int
    images: int
    validation: int
    source: str  # what --data DIR reads

    def steps_per_epoch(self, batch: int, ranks: int = 1) -> int:
        """Whole batches of an epoch, all ranks together; the rest is dropped."""
        return max(1, self.images // (batch * max(1, ranks)))

    def validation_batches(self, batch: int, ranks: int = 1) -> int:
        return math.ceil(self.validation / (batch * max(1, ranks)))


DATASETS = {
    dataset.name: dataset
    for dataset in (
        Dataset("imagenet", (3, 224, 224), 1000, 1_281_167, 50_000, "an ImageFolder tree"),
        Dataset("cifar100", (3, 32, 32), 100, 50_000, 10_000, "the CIFAR-100 python files"),
        Dataset("digits", (3, 16, 16), 10, 1_437, 360, "nothing: scikit-learn ships it"),
        Dataset("synthetic", None, 1000, 1_000_000, 0, "nothing: its tensors are random"),
    )
}


def dataset(name: str) -> Dataset:
    """The data set of a name; raises UsageError with the names that exist."""
    if name not in DATASETS:
        raise UsageError(unknown("dataset", name, DATASETS))
    return DATASETS[name]

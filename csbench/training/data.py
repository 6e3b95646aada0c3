"""Where images come from: tensors on the device, or files read by a loader that is measured too."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from csbench.core.case import Case
from csbench.errors import UsageError
from csbench.training import cifar, digits, folder
from csbench.training.datasets import Dataset

Batch = tuple[Tensor, Tensor]  # images [N, C, H, W] float32, targets [N] int64
_READY = 2  # batches that a loader's process keeps ready, as torch has it by default
_KEPT = 2  # synthetic batches that rotate, so that a step does not find its input in a cache


class Source(Protocol):
    """Training batches without end, and the validation images once, all on the device."""

    def batch(self) -> Batch: ...
    def validation(self) -> Iterator[Batch]: ...


class Place(NamedTuple):
    """Where batches have to be, and in which memory order."""

    device: torch.device
    channels_last: bool

    def put(self, images: Tensor, targets: Tensor) -> Batch:
        order = torch.channels_last if self.channels_last else torch.contiguous_format
        images = images.to(self.device, non_blocking=True).contiguous(memory_format=order)
        return images, targets.to(self.device, non_blocking=True)


class Synthetic:
    """Random images and labels that are on the device before the first step."""

    def __init__(self, case: Case, dataset: Dataset, place: Place, seed: int) -> None:
        draw = torch.Generator(place.device).manual_seed(seed)
        how: Any = {"generator": draw, "device": place.device}

        def drawn() -> Batch:
            images = torch.randn(case.batch, *case.input, **how)
            return place.put(images, torch.randint(dataset.classes, (case.batch,), **how))

        self._batches = [drawn() for _ in range(_KEPT)]
        self._turn = cycle(self._batches)

    def batch(self) -> Batch:
        return next(self._turn)

    def validation(self) -> Iterator[Batch]:
        return iter(self._batches)


class InMemory:
    """Images [N, C, H, W] float32 in memory, drawn in random order, shifted and perhaps mirrored.

    Every rank draws its own images; the validation images are shared out between the ranks.
    """

    def __init__(
        self, images: cifar.Images, case: Case, place: Place, seed: int, rank: int, ranks: int
    ) -> None:
        self._images, self._place, self._size = images, place, case.batch
        self._draw = torch.Generator().manual_seed(seed + rank)
        self._rank, self._ranks = rank, max(1, ranks)
        self._order = torch.empty(0, dtype=torch.long)

    def batch(self) -> Batch:
        count = len(self._images.train)
        if len(self._order) < self._size:
            shuffled = torch.randperm(count, generator=self._draw)
            self._order = torch.cat([self._order, shuffled])
            while len(self._order) < self._size:  # a batch larger than the set
                self._order = torch.cat([self._order, shuffled])
        chosen, self._order = self._order[: self._size], self._order[self._size :]
        images = self._augmented(self._images.train[chosen])
        return self._place.put(images, self._images.train_labels[chosen])

    def validation(self) -> Iterator[Batch]:
        images = self._images.test[self._rank :: self._ranks]
        labels = self._images.test_labels[self._rank :: self._ranks]
        for begin in range(0, len(images), self._size):
            end = begin + self._size
            yield self._place.put(images[begin:end], labels[begin:end])

    def _augmented(self, images: Tensor) -> Tensor:
        pad = self._images.shift
        height = images.shape[2]
        top, left = torch.randint(2 * pad + 1, (2,), generator=self._draw).tolist()
        padded = torch.nn.functional.pad(images, (pad, pad, pad, pad))
        shifted = padded[:, :, top : top + height, left : left + height]
        if self._images.mirror and torch.rand((), generator=self._draw) < 0.5:
            shifted = shifted.flip(3)
        return shifted


def open_source(
    case: Case, dataset: Dataset, path: Path | None, place: Place, *, seed: int, workers: int,
    rank: int = 0, ranks: int = 1,
) -> Source:  # fmt: skip
    """The source of a case; raises UsageError for folders and files that do not hold it."""
    if path is not None and dataset.name not in ("imagenet", "cifar100"):
        raise UsageError(
            f"--data '{path}': dataset '{dataset.name}' reads {dataset.source}; "
            "type --dataset imagenet (an ImageFolder tree) or --dataset cifar100"
        )
    if dataset.name == "digits":
        return InMemory(digits.read(case.input), case, place, seed, rank, ranks)
    if path is None:
        return Synthetic(case, dataset, place, seed + rank)
    if dataset.name == "cifar100":
        return InMemory(cifar.read(path), case, place, seed, rank, ranks)
    return folder.FolderSource(path, dataset, case, place.put, seed, workers, rank, ranks)


def loader_ms(source: Source, workers: int, count: int) -> tuple[float, ...]:
    """`count` samples of what a batch takes to be read, in milliseconds.

    What lies ready is taken away first; then a sample is one batch of every process, since they
    come together.
    """
    together = max(1, workers)
    for _ in range(_READY * together):
        source.batch()
    found = []
    for _ in range(count):
        begun = time.perf_counter()
        for _ in range(together):
            source.batch()
        found.append((time.perf_counter() - begun) * 1e3 / together)
    return tuple(found)

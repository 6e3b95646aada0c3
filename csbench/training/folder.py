"""An ImageFolder tree: DIR/train/CLASS/*.jpg and DIR/val/CLASS/*.jpg, decoded by Pillow."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from csbench.core.case import Case
from csbench.errors import UsageError
from csbench.training.datasets import Dataset as DatasetFacts

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".webp")
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_Put = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class FolderSource:
    """Batches from a tree of image files through a DataLoader with worker processes."""

    def __init__(
        self, path: Path, facts: DatasetFacts, case: Case, put: _Put, seed: int, workers: int,
        rank: int, ranks: int,
    ) -> None:  # fmt: skip
        self._put, self._epoch = put, 0
        train, held = path / "train", path / "val"
        if not train.is_dir():
            train = held = path
        elif not held.is_dir():
            raise UsageError(
                f"no folder '{held}' beside '{train}'; expected both, or classes alone"
            )
        size = case.input[1:]
        files = ImageFiles(train, facts.classes, size, augment=True, seed=seed)
        checks = ImageFiles(held, facts.classes, size, augment=False, seed=seed)
        if len(files) < case.batch:
            raise UsageError(
                f"'{train}' holds {len(files)} images, fewer than a batch of {case.batch}"
            )
        self._sampler: Any = DistributedSampler(files, max(1, ranks), rank, shuffle=True, seed=seed)
        own: Any = DistributedSampler(checks, max(1, ranks), rank, shuffle=False)
        shared: dict[str, Any] = {
            "batch_size": case.batch, "num_workers": workers, "pin_memory": case.device == "cuda",
            "persistent_workers": workers > 0,
        }  # fmt: skip
        self._train: Any = DataLoader(files, sampler=self._sampler, drop_last=True, **shared)
        self._held: Any = DataLoader(checks, sampler=own, **shared)
        self._batches: Iterator[Any] = iter(())

    def batch(self) -> tuple[Tensor, Tensor]:
        with _one_line():
            try:
                images, targets = next(self._batches)
            except StopIteration:
                self._sampler.set_epoch(self._epoch)
                self._epoch += 1
                self._batches = iter(self._train)
                images, targets = next(self._batches)
        return self._put(images, targets)

    def validation(self) -> Iterator[tuple[Tensor, Tensor]]:
        with _one_line():
            for images, targets in self._held:
                yield self._put(images, targets)


@contextmanager
def _one_line() -> Iterator[None]:
    """A loader's process puts its traceback before the line that it raised: take the line alone."""
    try:
        yield
    except UsageError as error:
        line = str(error).strip().splitlines()[-1]
        raise UsageError(line.removeprefix(f"{UsageError.__module__}.UsageError: ")) from None


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """The files of a tree, one folder a class; random crops and mirroring where `augment`."""

    def __init__(
        self, root: Path, classes: int, size: tuple[int, int], augment: bool, seed: int
    ) -> None:
        _insist_on_pillow()
        if not root.is_dir():
            raise UsageError(
                f"no data folder '{root}'; expected an ImageFolder tree DIR/train/CLASS"
            )
        folders = sorted(folder for folder in root.iterdir() if folder.is_dir())
        if len(folders) != classes:
            raise UsageError(
                f"'{root}' holds {len(folders)} class folders, the dataset has {classes} classes; "
                "name the folder that holds one folder for each class (or holds train and val)"
            )
        self._files = [
            (file, label)
            for label, folder in enumerate(folders)
            for file in sorted(folder.iterdir())
            if file.suffix.lower() in SUFFIXES
        ]
        if not self._files:
            raise UsageError(f"'{root}' holds no images ({', '.join(SUFFIXES)}) in its folders")
        self._size, self._augment, self._seed = size, augment, seed

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image, UnidentifiedImageError

        file, label = self._files[index]
        try:
            with Image.open(file) as opened:
                image = self._cut(opened.convert("RGB"))
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise UsageError(f"cannot read image '{file}': {error}; remove or replace it") from None
        pixels = torch.from_numpy(np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255)
        mean, std = torch.tensor(_MEAN).view(3, 1, 1), torch.tensor(_STD).view(3, 1, 1)
        return pixels.sub_(mean).div_(std), label

    def _cut(self, image: Any) -> Any:
        """A random part for training (8 to 100 % of the area), the middle for validation."""
        from PIL import Image

        height, width = self._size
        if self._augment:
            side = max(1, int(min(image.size) * random.uniform(0.08, 1.0) ** 0.5))
            left = random.randint(0, image.width - side)
            top = random.randint(0, image.height - side)
            if random.random() < 0.5:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        else:
            side = int(min(image.size) * 0.875) or 1
            left, top = (image.width - side) // 2, (image.height - side) // 2
        return image.resize((width, height), Image.Resampling.BILINEAR,
                            box=(left, top, left + side, top + side))  # fmt: skip


def _insist_on_pillow() -> None:
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "reading image files needs Pillow, which is not here; type pip install pillow, "
            "or leave --data out for synthetic images"
        ) from error

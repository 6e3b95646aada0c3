"""The CIFAR-100 python files, read without running anything that they may hold."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from csbench.errors import UsageError

CLASSES = 100
_MEAN, _STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
# What an array of numbers needs to be rebuilt; any other name in the file is refused.
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


@dataclass(frozen=True, eq=False)
class Images:
    """Training and test images [N, C, H, W] float32, normalised, with labels int64.

    `shift` is the largest random shift in pixels, `mirror` whether left and right may change.
    """

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    shift: int = 4
    mirror: bool = True


def read(path: Path) -> Images:
    """The files `train` and `test` of the folder; raises UsageError that says what is wrong."""
    folder = path / "cifar-100-python" if (path / "cifar-100-python").is_dir() else path
    if not folder.is_dir():
        raise UsageError(
            f"no data folder '{path}'; expected the folder with CIFAR-100's python files "
            "train and test"
        )
    train, train_labels = _part(folder / "train")
    test, test_labels = _part(folder / "test")
    return Images(train, train_labels, test, test_labels)


def _part(path: Path) -> tuple[Tensor, Tensor]:
    if not path.is_file():
        raise UsageError(
            f"no file '{path}'; expected CIFAR-100's python version: unpack "
            "cifar-100-python.tar.gz and name its folder"
        )
    content = _load(path)
    pixels, labels = content.get(b"data"), content.get(b"fine_labels")
    if not isinstance(pixels, np.ndarray) or labels is None:
        raise UsageError(f"'{path}' holds no CIFAR-100 (keys data and fine_labels are missing)")
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != 3072 or len(pixels) == 0:
        raise UsageError(
            f"'{path}' holds {list(pixels.shape)} {pixels.dtype}; expected [N, 3072] uint8"
        )
    targets = torch.as_tensor(labels, dtype=torch.long)
    if len(targets) != len(pixels) or int(targets.min()) < 0 or int(targets.max()) >= CLASSES:
        raise UsageError(
            f"'{path}' holds {len(targets)} labels up to {int(targets.max())} for {len(pixels)} "
            f"images; expected one of {CLASSES} classes for each"
        )
    images = torch.from_numpy(pixels.copy()).view(-1, 3, 32, 32).float().div_(255)
    mean, std = torch.tensor(_MEAN).view(3, 1, 1), torch.tensor(_STD).view(3, 1, 1)
    return images.sub_(mean).div_(std), targets


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


def _load(path: Path) -> dict[bytes, Any]:
    try:
        found = _Arrays(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises nearly anything
        raise UsageError(
            f"'{path}' is not a CIFAR-100 python file ({error}); csbench reads arrays and labels "
            "alone and never runs code from it; download it again"
        ) from error
    if not isinstance(found, dict):
        raise UsageError(f"'{path}' holds a {type(found).__name__}; expected CIFAR-100's table")
    return found

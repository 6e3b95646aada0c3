"""The 1797 handwritten digits that scikit-learn ships: a real set that needs no download."""

from __future__ import annotations

import torch

from csbench.errors import UsageError
from csbench.training.cifar import Images

_TEST_EVERY = 5  # every fifth image is for validation


def read(size: tuple[int, int, int]) -> Images:
    """The 8x8 images as [N, C, H, W], resized; raises UsageError where scikit-learn is missing."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UsageError(
            "dataset 'digits' comes with scikit-learn, which is not here; "
            "type pip install scikit-learn"
        ) from error
    pixels, labels = load_digits(return_X_y=True)
    channels, height, width = size
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8).div_(16)
    images = torch.nn.functional.interpolate(images, (height, width), mode="bilinear")
    images = images.sub_(images.mean()).div_(images.std()).repeat(1, channels, 1, 1)
    targets = torch.tensor(labels, dtype=torch.long)
    test = torch.arange(len(images)) % _TEST_EVERY == 0
    return Images(
        images[~test], targets[~test], images[test], targets[test], shift=height // 16, mirror=False
    )

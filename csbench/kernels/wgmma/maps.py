"""How the copy engine sees packed activations: 64 numbers of 16 bits, 128 bytes, at a time."""

from __future__ import annotations

from torch import Tensor

from csbench.kernels import maps
from csbench.kernels.maps import Pair, TensorMap

_COLUMNS = 64


def rows(tensor: Tensor, columns: int, count: int, box: int) -> TensorMap:
    """Boxes of `box` rows x 64 columns of a matrix [count, columns]; zero outside."""
    return maps.tiled(tensor, (columns, count), (columns,), (_COLUMNS, box))


def boxes(image: Tensor, width: int, height: int) -> TensorMap:
    """Boxes of width x height pixels x 64 columns of one image of [N, H, W, columns]."""
    n, h, w, columns = image.shape
    stride = (columns, w * columns, h * w * columns)
    return maps.tiled(image, (columns, w, h, n), stride, (_COLUMNS, width, height, 1))


def windows(
    image: Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, box: int
) -> TensorMap:
    """`box` consecutive output pixels x 64 columns of an image [N, H, W, columns] at one tap.

    Pairs are (vertical, horizontal).
    """
    n, h, w, columns = image.shape
    return maps.windows(
        image, (n, h, w, columns), kernel, stride, padding, dilation, channels=_COLUMNS, pixels=box
    )

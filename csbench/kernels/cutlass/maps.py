"""How the copy engine sees the activations of a convolution."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from csbench.kernels import maps
from csbench.kernels.maps import ROUNDED_TO_TF32, Pair, TensorMap

__all__ = ["MOST_LINES", "TensorMap", "Window", "lines", "windows"]

MOST_LINES = 256  # of a box of a matrix


class Window(NamedTuple):
    """A convolution's geometry; pairs are (vertical, horizontal)."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair

    @property
    def is_pixel(self) -> bool:
        """Whether every output pixel reads the one input pixel at its place."""
        return self.kernel == (1, 1) and self.stride == (1, 1) and self.padding == (0, 0)


def windows(
    image: Tensor, precision: str, size: tuple[int, int, int, int], window: Window, *,
    channels: int, pixels: int,
) -> TensorMap:  # fmt: skip
    """Boxes of `pixels` consecutive output pixels x `channels` at one tap of a window.

    `image` is channels last in memory; `size` is (N, H, W, C). Outside of it there are zeros.
    """
    return maps.windows(
        image, size, *window, channels=channels, pixels=pixels, numbers=_numbers(precision)
    )


def lines(
    image: Tensor, precision: str, count: int, columns: int, *, channels: int, pixels: int
) -> TensorMap:
    """Boxes of `pixels` lines x `channels` of a matrix [count, columns]; zeros outside of it."""
    return maps.tiled(
        image, (columns, count), (columns,), (channels, pixels),
        swizzle=channels * image.element_size(), numbers=_numbers(precision),
    )  # fmt: skip


def _numbers(precision: str) -> int | None:
    return ROUNDED_TO_TF32 if precision == "tf32" else None

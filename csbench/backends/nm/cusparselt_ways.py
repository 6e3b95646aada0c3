"""The ways to make products for cuSPARSELt of one convolution.

- `direct`: a 1x1 layer, whose NHWC activations are the matrix already;
- `explicit`: each pixel's window side by side in memory (im2col), one product;
- `by rows`: the taps of one kernel row side by side for every row of the padded image, and one
  product for each kernel row, added up in the result: a third of the memory for a 3x3 layer.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from csbench.graph.program import Conv
from csbench.kernels.cusparselt.product import Problem
from csbench.kernels.cusparselt.windows import Windows

PIXELS = 8  # the matrices' pixels come in multiples of it


class Way(NamedTuple):
    """How a layer becomes products: what is laid side by side, and how many products add up."""

    name: str
    windows: Windows | None  # None: the activations are the matrix
    products: int
    problem: Problem
    next: int  # numbers from one product's matrix to the next one's

    @property
    def rows(self) -> int:
        """Pixels of the result, its padding included."""
        return self.problem.pixels * self.problem.images


def ways(conv: Conv, batch: int, dtype: torch.dtype) -> list[Way]:
    """The ways that this layer has."""
    (cin, _, _), (cout, height, width) = conv.input_size, conv.output_size
    _, _, kh, kw = conv.weight.shape
    pixels = batch * height * width
    padded = -(-pixels // PIXELS) * PIXELS

    def whole(inner: int) -> Problem:
        return Problem(cout, inner, padded, 1, 0, dtype)

    point = (kh, kw) == conv.stride == (1, 1) and conv.padding == (0, 0)
    if point and pixels == padded:
        return [Way("direct", None, 1, whole(cin), 0)]
    window = Windows((kh, kw), (height, width), conv.stride, conv.padding, conv.dilation, padded)
    found = [Way("explicit", window, 1, whole(kh * kw * cin), 0)]
    if kh > 1 and conv.stride[0] == 1 and height * width % PIXELS == 0:
        rows = height + (kh - 1) * conv.dilation[0]
        line = Windows(
            (1, kw), (rows, width), conv.stride, conv.padding, conv.dilation, batch * rows * width
        )
        inner = kw * cin
        problem = Problem(cout, inner, height * width, batch, rows * width * inner, dtype)
        found.append(Way("by rows", line, kh, problem, conv.dilation[0] * width * inner))
    return found


def matrices(conv: Conv, way: Way) -> list[Tensor]:
    """The weights of each product: [Cout, taps of its kernel rows x Cin]."""
    by_tap = conv.weight.to(way.problem.dtype).permute(0, 2, 3, 1)
    return [part.flatten(1).contiguous() for part in by_tap.chunk(way.products, 1)]

"""Both ends of a network on the latency kernels: the stem with its pooling, the mean with the head.

Which convolutions these are, and their weights packed.
"""

from __future__ import annotations

from csbench.graph.program import Conv
from csbench.kernels.latency import head, stem
from csbench.kernels.latency.head import Head
from csbench.kernels.latency.pack import Order
from csbench.kernels.latency.stem import First, Stem


def first(conv: Conv) -> First:
    """The convolution as the stem's kernel sees it."""
    _, channels, height, width = conv.weight.shape
    _, *out_size = conv.output_size
    return First(
        channels, (height, width), conv.padding, (out_size[0], out_size[1]), conv.activation
    )


def stem_fits(conv: Conv, window: tuple[int, int, int] | None) -> bool:
    """Whether one kernel takes this layer and a max pooling of (size, stride, padding)."""
    plain = conv.groups == 1 and not conv.residual and conv.pattern is None
    geometry = conv.stride == (2, 2) and conv.dilation == (1, 1)
    return plain and geometry and stem.stem_fits(first(conv), window)


def pack_stem(
    conv: Conv, split: bool, order: Order, scales: tuple[float, float], device: str
) -> Stem:
    """The layer for an output in `order`, and the (input, output) scales around it."""
    return stem.pack_stem(first(conv), conv.weight, conv.bias, split, order, scales, device)


def head_fits(conv: Conv, split: bool, order: Order, images: int) -> bool:
    """Whether one kernel takes the mean of planes in `order` and this layer."""
    linear = conv.input_size[1:] == conv.weight.shape[2:] == (1, 1) and conv.pattern is None
    plain = conv.groups == 1 and not conv.residual and conv.activation == "none"
    return linear and plain and head.head_fits(split, order, images)


def pack_head(conv: Conv, split: bool, order: Order, x_scale: float, device: str) -> Head:
    """The layer for planes in `order` whose halves are multiplied by `x_scale`."""
    return head.pack_head(conv.weight, conv.bias, split, order, x_scale, device)

"""One dense fused convolution on a GPU in every way that torch offers, for `cudnn` to choose from.

- `fused`: cuDNN with bias, residual and ReLU in its epilogue;
- `plain`: cuDNN, then what it does not fuse (a layer without ReLU);
- `gemm`: a 1x1 convolution in channels-last order as one product by cuBLAS, bias and ReLU in its
  epilogue. cuBLAS splits long sums over the device, which cuDNN's convolutions do not;
- `gemm unfolded`: the same of a larger window, whose pixels are first copied side by side;
- `turned`: the first two in the other memory layout, with the conversions there and back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor

from csbench.backends.dense.placements import placements
from csbench.core.case import Case
from csbench.graph.program import Conv

Layout = Literal["NCHW", "NHWC"]
UNFOLDED = "gemm unfolded"
Algorithm = Callable[[Tensor, Tensor | None], Tensor]
FORMATS: dict[Layout, torch.memory_format] = {
    "NCHW": torch.contiguous_format, "NHWC": torch.channels_last,
}  # fmt: skip
TORCH_DTYPE = {
    "fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16,
}  # fmt: skip


@contextlib.contextmanager
def precision(dtype: str) -> Iterator[None]:
    """TF32 on for `tf32` and off for all else, cuDNN's search over all its plans; then as before.

    torch reads these switches when an operation is launched, so every launch stands inside.
    """
    tf32 = dtype == "tf32"
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=True, benchmark_limit=0, deterministic=False, allow_tf32=tf32
    ):
        matmul.allow_tf32 = tf32
        try:
            yield
        finally:
            matmul.allow_tf32 = before


class DenseConv:
    """The weights of a layer on the device in one layout, and the algorithms that take them."""

    def __init__(self, conv: Conv, dtype: str, device: str, layout: Layout) -> None:
        self.conv, self.format = conv, FORMATS[layout]
        kind = TORCH_DTYPE[dtype]
        self.weight = conv.weight.to(device, kind).contiguous(memory_format=self.format)
        # Only a shortcut's bias is left out when zero: fold_biases has moved it.
        moved = conv.activation == "none" and not conv.bias.any()
        self.bias = None if moved else conv.bias.to(device, kind)
        pixels_last = layout == "NCHW" and conv.input_size[1:] != (1, 1)
        self.has_gemm = conv.groups == 1 and not pixels_last
        if self.has_gemm:
            self.matrix = self.weight.permute(0, 2, 3, 1).flatten(1).t()  # a view

    def algorithms(self) -> dict[str, list[Algorithm]]:
        """By name, in every placement of weights and bias that may change what cuDNN runs."""
        weights = placements(self.weight)
        found: dict[str, list[Algorithm]]
        found = {"plain": [partial(_plain, self.conv, w, self.bias) for w in weights]}
        if self.conv.activation != "none" and self.bias is not None:
            pairs = product(weights, placements(self.bias))
            found["fused"] = [partial(_fused, self.conv, w, bias) for w, bias in pairs]
        if self.has_gemm:
            found["gemm" if is_product(self.conv) else UNFOLDED] = [self._gemm]
        return found

    def _gemm(self, x: Tensor, residual: Tensor | None) -> Tensor:
        lines = self._lines(x)
        fused = residual is None and self.conv.activation != "none"
        if self.bias is None:
            y = lines @ self.matrix
        elif fused:
            y = torch._addmm_activation(self.bias, lines, self.matrix)
        else:
            y = torch.addmm(self.bias, lines, self.matrix)
        if residual is not None:
            y.add_(residual.permute(0, 2, 3, 1).flatten(0, 2))
        if not fused or self.conv.activation == "relu6":
            _activate(self.conv, y)
        return y.view(x.shape[0], *self.conv.output_size[1:], -1).permute(0, 3, 1, 2)

    def _lines(self, x: Tensor) -> Tensor:
        """What each output pixel reads, [pixels, taps * channels]: a view of channels-last memory
        where the window is one pixel, else a copy."""
        stride, padding, dilation, _ = _shape(self.conv)
        if is_product(self.conv):
            return x.permute(0, 2, 3, 1)[:, :: stride[0], :: stride[1]].flatten(0, 2)
        if any(padding):
            x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
        pixels = x.permute(0, 2, 3, 1)
        image, row, column, channel = pixels.stride()
        windows = pixels.as_strided(
            (len(x), *self.conv.output_size[1:], *self.weight.shape[2:], x.shape[1]),
            (
                image, stride[0] * row, stride[1] * column, dilation[0] * row,
                dilation[1] * column, channel,
            ),
        )  # fmt: skip
        return windows.flatten(0, 2).flatten(1)


def _shape(conv: Conv) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]:
    """All that torch asks of a convolution beside its tensors."""
    return conv.stride, conv.padding, conv.dilation, conv.groups


def _plain(
    conv: Conv, weight: Tensor, bias: Tensor | None, x: Tensor, residual: Tensor | None
) -> Tensor:
    y = F.conv2d(x, weight, bias, *_shape(conv))
    return _activate(conv, y if residual is None else y.add_(residual))


def _fused(conv: Conv, weight: Tensor, bias: Tensor, x: Tensor, residual: Tensor | None) -> Tensor:
    if residual is None:
        y = torch.cudnn_convolution_relu(x, weight, bias, *_shape(conv))
    else:
        y = torch.cudnn_convolution_add_relu(x, weight, residual, 1.0, bias, *_shape(conv))
    return y.clamp_(max=6) if conv.activation == "relu6" else y


def _activate(conv: Conv, y: Tensor) -> Tensor:
    """In place."""
    if conv.activation == "relu":
        return y.relu_()
    return y.clamp_(0, 6) if conv.activation == "relu6" else y


def sample(conv: Conv, case: Case, layout: Layout) -> tuple[Tensor, Tensor | None]:
    """Random activations (x, residual) to time a layer with."""
    residual = normal(conv.output_size, case, layout) if conv.residual else None
    return normal(conv.input_size, case, layout), residual


def normal(size: tuple[int, int, int], case: Case, layout: Layout) -> Tensor:
    """A batch of standard normal activations [N, C, H, W]."""
    generator = torch.Generator(case.device).manual_seed(0)
    x = torch.randn(case.batch, *size, generator=generator, device=case.device)
    return x.to(TORCH_DTYPE[case.dtype]).contiguous(memory_format=FORMATS[layout])


def is_product(conv: Conv) -> bool:
    """Whether each output pixel reads one input pixel."""
    return not any(conv.padding) and tuple(conv.weight.shape[2:]) == (1, 1)


def unfolded_bytes(conv: Conv, case: Case) -> int:
    """What the copy of all windows takes."""
    pixels = case.batch * conv.output_size[1] * conv.output_size[2]
    return pixels * conv.weight[0].numel() * TORCH_DTYPE[case.dtype].itemsize

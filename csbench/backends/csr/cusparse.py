"""A pointwise convolution as one sparse-dense product by cuSPARSE, through torch."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from csbench.graph.program import Activation, Conv

_MOST = 2**31  # weights, which int32 counts


class CuSparse:
    """CSR weights times the pixels of all images; bias, residual and activation follow."""

    def __init__(self, conv: Conv, device: str) -> None:
        self.stride, self.output_size = conv.stride, conv.output_size[1:]
        self.activation: Activation = conv.activation
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch calls its CSR tensors a beta
            self.matrix = _with_short_indices(conv.weight.flatten(1).to_sparse_csr(), device)
        self.bias = conv.bias.to(device).view(-1, 1, 1)

    def __str__(self) -> str:
        return "cuSPARSE, int32 indices"

    @property
    def bytes(self) -> int:
        """Values and indices, 4 bytes each."""
        parts = (self.matrix.values(), self.matrix.col_indices(), self.matrix.crow_indices())
        return sum(t.numel() * t.element_size() for t in parts)

    def run(self, x: Tensor, residual: Tensor | None) -> Tensor:
        """The fused convolution of float32 NCHW activations."""
        (down, across), images = self.stride, len(x)
        lines = x[..., ::down, ::across].transpose(0, 1).flatten(1)  # a view of one image
        y = torch.sparse.mm(self.matrix, lines)
        y = y.view(-1, images, *self.output_size).transpose(0, 1) + self.bias
        if residual is not None:
            y += residual
        return _activated(y, self.activation).contiguous()


def fits(conv: Conv, dtype: torch.dtype) -> bool:
    """Whether the layer is such a product.

    Not in words of fp16 and bf16: two images share one, which would have to be taken apart before
    a product of plain tensors and put together again behind it. That was never tried.
    """
    pointwise = tuple(conv.weight.shape[2:]) == (1, 1) and conv.padding == (0, 0)
    return pointwise and dtype == torch.float32 and conv.weight.numel() < _MOST


def _with_short_indices(matrix: Tensor, device: str) -> Tensor:
    """The same CSR matrix on a device with int32 indices, half of what torch makes."""
    rows, columns = (
        index.to(device, torch.int32) for index in (matrix.crow_indices(), matrix.col_indices())
    )
    return torch.sparse_csr_tensor(rows, columns, matrix.values().to(device), matrix.shape)


def _activated(y: Tensor, activation: Activation) -> Tensor:
    if activation == "relu":
        return y.relu_()
    return y.clamp_(0, 6) if activation == "relu6" else y

"""One layer of `csr` on the device, in every way that is worth timing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor

from csbench.backends.base import TORCH_DTYPE
from csbench.backends.csr.cusparse import CuSparse
from csbench.backends.csr.cusparse import fits as fits_cusparse
from csbench.core.case import Case
from csbench.errors import BackendError
from csbench.graph.program import Conv
from csbench.kernels import nvrtc, search
from csbench.kernels.csr import candidates, launch
from csbench.kernels.csr.columns import Weight
from csbench.kernels.csr.launch import Variant
from csbench.kernels.csr.space import Shape

ACTIVATIONS = ("none", "relu", "relu6")  # numbered as in word.cuh


class CsrLayer:
    """A layer's weight, and the kernels that can run it by name; packed when first run.

    `bytes` are values and indices of the one that runs, once settled.
    """

    bytes: int

    def __init__(self, conv: Conv, case: Case) -> None:
        self.conv, self.dtype, self.word = conv, TORCH_DTYPE[case.dtype], word_of(case)
        self.shape = shape_of(conv, case)
        self.bias = conv.bias.float().to(case.device)
        stored = conv.weight.to(case.device, self.dtype).float()
        self.weight = Weight(stored)
        found: list[Variant | CuSparse] = list(
            candidates.variants(self.weight, self.shape, self.word)
        )
        if fits_cusparse(conv, self.word):
            found.append(CuSparse(dataclasses.replace(conv, weight=stored), case.device))
        self.variants = {str(variant): variant for variant in found}
        self.names = sorted(self.variants)  # all of them, also after keep()

    @property
    def signature(self) -> tuple[object, ...]:
        """What decides the time of its variants; layers of equal signature choose alike."""
        density = round(self.weight.kept / self.weight.values.numel(), 2)
        return (
            tuple(self.shape), density, self.word, self.conv.activation, self.conv.residual,
            tuple(self.names),
        )  # fmt: skip

    def run(self, name: str, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """The fused convolution of words by one variant; raises BackendError for another size."""
        lowered_for = [self.shape.images, *self.conv.input_size]
        if list(x.shape[:4]) != lowered_for:
            raise BackendError(
                f"the layer was lowered for words of {lowered_for} (several images of fp16 or bf16 "
                f"in pairs), not {list(x.shape[:4])}"
            )
        variant = self.variants[name]
        if isinstance(variant, CuSparse):
            return variant.run(x, residual)
        y = x.new_empty((len(x), *self.conv.output_size, *x.shape[4:]))
        activation = ACTIVATIONS.index(self.conv.activation)
        launch.launch(variant, x, self.bias, residual, y, activation)
        return y

    def ranked(self) -> list[str]:
        """Names of the variants from fast to slow, each timed alone (measured once, kept)."""
        x = self._sample(self.conv.input_size)
        residual = self._sample(self.conv.output_size) if self.conv.residual else None
        runs = {name: partial(self.run, name, x, residual) for name in self.variants}
        key = ("csr", nvrtc.digest(*launch.FILES), self.signature)
        return search.ranking(runs, key, prepare=self._compile)

    def keep(self, names: Iterable[str]) -> None:
        """Let go of all other variants and what they have packed."""
        self.variants = {name: self.variants[name] for name in names}

    def settle(self, name: str) -> None:
        """Pack one variant; let go of the others, and of the weight that they are packed from."""
        self.keep([name])
        self.bytes = self.variants[name].bytes
        self.weight.let_go()

    def describe(self, name: str) -> str:
        """A line for the records, with the products made for each kept weight."""
        variant = self.variants[name]
        if self.word != self.dtype:
            name += ", one image as fp32"
        if isinstance(variant, CuSparse) or not self.weight.kept:
            return name
        made = variant.v * self.weight.columns(variant.v) / self.weight.kept
        return f"{name}, {made:.2f} products a weight"

    def _sample(self, size: tuple[int, int, int]) -> Tensor:
        images = self.shape.images * (1 if self.word == torch.float32 else 2)
        x = torch.randn(images, *size, device=self.bias.device)
        return launch.to_words(x, self.word)

    def _compile(self) -> None:
        own = [v for v in self.variants.values() if not isinstance(v, CuSparse)]
        launch.compile_all(own, self.word)


def word_of(case: Case) -> torch.dtype:
    """The numbers that words hold: of one image in halves float32, or half of each were padding."""
    return TORCH_DTYPE[case.dtype] if case.batch > 1 else torch.float32


def shape_of(conv: Conv, case: Case) -> Shape:
    """The layer as the kernels see it: images in words, two of them to a word of halves."""
    a_word = 1 if word_of(case) == torch.float32 else 2
    _, _, *kernel = conv.weight.shape
    return Shape(
        -(-case.batch // a_word), conv.input_size[0], conv.input_size[1:], conv.output_size[0],
        conv.output_size[1:], (kernel[0], kernel[1]), conv.stride, conv.padding, conv.dilation,
    )  # fmt: skip

"""What the csr kernels are launched with, and the limits of the device at hand."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from csbench.kernels import driver, nvrtc

KINDS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
FILES = ("csr/staged.cu", "csr/direct.cu")


class Call(NamedTuple):
    """One launch."""

    grid: int
    threads: int
    shared: int
    arguments: list[driver.Argument]


class Variant(Protocol):
    """One way to run a layer on one of the kernels."""

    source: str
    kernel: str

    @property
    def options(self) -> tuple[str, ...]: ...

    @property
    def v(self) -> int:
        """Rows of a group."""

    @property
    def bytes(self) -> int:
        """Values and indices on the device."""

    def call(
        self, x: Tensor, bias: Tensor, residual: Tensor | None, y: Tensor, activation: int
    ) -> Call: ...


def launch(
    variant: Variant, x: Tensor, bias: Tensor, residual: Tensor | None, y: Tensor, activation: int
) -> None:
    """Write the fused convolution of words x (to_words) to y; bias is float32."""
    call = variant.call(x, bias, residual, y, activation)
    options = (f"-DKIND={KINDS[x.dtype]}", *variant.options)
    _kernel(variant.source, variant.kernel, options, x.device.index).launch(
        call.grid, call.threads, call.arguments, shared=call.shared, overlap=_overlaps()
    )


def compile_all(variants: Iterable[Variant], dtype: torch.dtype) -> None:
    """Compile what is not cached yet, several at a time."""
    arch = nvrtc.architecture(torch.cuda.current_device())
    wanted = sorted({(v.source, (f"-DKIND={KINDS[dtype]}", *v.options)) for v in variants})
    with ThreadPoolExecutor() as pool:
        list(pool.map(partial(_compile, arch), wanted))


def _compile(arch: str, wanted: tuple[str, tuple[str, ...]]) -> bytes:
    return nvrtc.compile_cubin(wanted[0], options=wanted[1], arch=arch)


@cache
def _kernel(source: str, name: str, options: tuple[str, ...], device: int) -> driver.Kernel:
    return nvrtc.load(source, options=options, device=device).kernel(name)


def settle(packed: Tensor) -> None:
    """Wait for what was packed last: kernels read it before their predecessor has ended."""
    if packed.is_cuda:
        torch.cuda.current_stream(packed.device).synchronize()


def to_words(x: Tensor, dtype: torch.dtype) -> Tensor:
    """NCHW activations as words: fp32 as they are, halves of two images side by side.

    [N, C, H, W] or, of halves, [ceil(N / 2), C, H, W, 2]; an odd last image stands beside zeros.
    """
    x = x.to(dtype)
    if dtype != torch.float32:
        if len(x) % 2:
            x = torch.cat([x, torch.zeros_like(x[:1])])
        x = x.reshape(-1, 2, *x.shape[1:]).permute(0, 2, 3, 4, 1)
    x = x.contiguous()
    return x if x.data_ptr() % 16 == 0 else x.clone()


def from_words(words: Tensor, batch: int, dtype: torch.dtype) -> Tensor:
    """The activations [batch, C, H, W] again."""
    if words.dim() > 4:
        words = words.permute(0, 4, 1, 2, 3).flatten(0, 1)[:batch]
    return words.to(dtype)


def shared_memory(blocks: int) -> int:
    """Bytes of shared memory that each of `blocks` blocks on a multiprocessor can have."""
    found = _properties()
    block, whole = (227 << 10, 228 << 10) if found is None else (
        int(found.shared_memory_per_block_optin), int(found.shared_memory_per_multiprocessor)
    )  # fmt: skip
    return min(block, whole // blocks - 1024)


def multiprocessors() -> int:
    found = _properties()
    return 132 if found is None else int(found.multi_processor_count)


def _overlaps() -> bool:
    """Whether there is programmatic dependent launch: from Hopper on."""
    found = _properties()
    return found is None or int(found.major) >= 9


@cache
def _properties() -> Any:
    """Of the current device; None without one (Hopper's figures then)."""
    return torch.cuda.get_device_properties() if torch.cuda.is_available() else None

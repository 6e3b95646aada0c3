"""The own source of wgmma/conv.cu and halo.cu against float64, on a CPU (tests/kernels/host)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor

from csbench.backends.cs.throughput_layer import Layer
from csbench.core.pattern import parse
from csbench.graph import reference
from csbench.graph.program import Conv
from csbench.kernels.wgmma.halo import Halo
from csbench.kernels.wgmma.tile import Kind, Tile
from tests.backends.native import pruned
from tests.backends.vector.shapes import layer
from tests.gpu.shapes import poisoned_memory
from tests.kernels.host import host
from tests.kernels.wgmma import meaning

pytestmark = host.needs_gxx

Make = Callable[..., Conv]

TWO_PLANES, FP16, BF16 = Kind(True, 2), Kind(True, 1), Kind(True, 1, bf16=True)
DENSE_TWO_PLANES, DENSE_FP16 = Kind(False, 2), Kind(False, 1)
SCALES = {1: (1.0, 1.0, 1.0), 2: (64.0, 8.0, 32.0)}  # of x, residual and result, by planes

# Images, layer, numbers and tile (wm, wn, mi, n, chunk, slots, promote, blocks).
CONV: dict[str, tuple[int, Make, Kind, Tile]] = {
    "two planes, ragged channels": (
        5, partial(layer, 72, 100, (7, 6), kernel=3), TWO_PLANES, Tile(2, 1, 1, 64, 64, 1, 4, 2),
    ),
    "two slots": (
        3, partial(layer, 64, 128, (7, 9), kernel=3), TWO_PLANES, Tile(2, 1, 1, 96, 48, 2, 4, 1),
    ),
    "fewer pixels than a tile, strided": (
        5, partial(layer, 64, 192, (5, 6), kernel=3, stride=2),
        TWO_PLANES, Tile(1, 2, 1, 64, 32, 1, 4, 2),
    ),
    "fp16, more chunks than slots": (
        5, partial(layer, 256, 256, (7, 9)), FP16, Tile(2, 1, 2, 128, 64, 2, 0, 1),
    ),
    "fp16, stores still leave when the next tile is done": (
        21, partial(layer, 64, 256, (7, 9)), FP16, Tile(2, 1, 2, 128, 64, 2, 0, 1),
    ),
    "bf16, dilated": (
        5, partial(layer, 64, 128, (7, 9), kernel=3, dilation=2),
        BF16, Tile(2, 1, 1, 96, 48, 2, 0, 2),
    ),
    "dense, two planes": (
        3, partial(layer, 72, 100, (7, 6), kernel=3),
        DENSE_TWO_PLANES, Tile(1, 2, 1, 64, 64, 1, 4, 1),
    ),
    "dense, fp16": (7, partial(layer, 200, 64, (7, 9)), DENSE_FP16, Tile(1, 2, 1, 64, 64, 1, 0, 2)),
}  # fmt: skip
HALO: dict[str, tuple[int, Make, Kind, Halo]] = {
    "two planes, two blocks of rows": (
        3, partial(layer, 64, 100, (11, 30), kernel=3), TWO_PLANES, Halo(30),
    ),
    "dense, fp16": (7, partial(layer, 48, 64, (9, 14), kernel=3), DENSE_FP16, Halo(14)),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _on_the_host(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One multiprocessor, so that blocks go through several tiles; memory starts as NaN."""
    host.install(monkeypatch, processors=1)
    with poisoned_memory():
        yield


def limit(kind: Kind) -> float:
    return 1e-6 if kind.planes == 2 else 6e-3 if kind.bf16 else 1e-3


def packed(x: Tensor, kind: Kind, scale: float) -> Tensor:
    return meaning.pack(x, kind, torch.tensor(scale))


def error(
    images: int, make: Make, kind: Kind, tile: Tile | Halo, residual: bool, *, late: bool = False
) -> float:
    """How far the result is off; `late` is what the kernel before writes, all but the weights."""
    conv = make(residual=residual, activation="none" if residual else "relu")
    conv = pruned(conv, parse("nm:2:4")) if kind.sparse else conv
    scales = SCALES[kind.planes]
    made = Layer(conv, kind, "cpu", scales)
    assert tile in made.tiles.values()
    x, added = torch.randn(images, *conv.input_size), torch.randn(images, *conv.output_size)
    given = [packed(v, kind, scale) for v, scale in zip((x, added), scales[:2], strict=True)]
    with host.ends_late([*given, made.unscale, made.bias] if late else []):
        out = made.run_with(tile, given[0], given[1] if residual else None)
    rows = len(conv.bias)
    assert bool((meaning.numbers(out, kind)[..., rows:] == 0).all())
    found = meaning.unpack(out, rows, kind, torch.tensor(scales[2]), torch.float32)
    expected = reference.convolution(conv, x, added if residual else None)
    return reference.relative_error(found, expected)


@pytest.mark.parametrize("name", CONV)
def test_convolution(name: str) -> None:
    images, make, kind, tile = CONV[name]
    for residual in (False, True):
        assert error(images, make, kind, tile, residual) < limit(kind), residual


@pytest.mark.parametrize("name", CONV)
def test_stages_are_filled_again(name: str) -> None:
    """In what test_convolution runs, in blocks that go through several tiles."""
    images, make, kind, tile = CONV[name]
    made = Layer(make(), kind, "cpu")
    pixels = images * made.geometry.out_size[0] * made.geometry.out_size[1]
    tiles = -(-pixels // tile.pixels) * -(-made.geometry.cout // tile.rows)
    assert -(-tiles // tile.blocks) * made.k_steps >= 2 * tile.stages(kind)
    assert tiles > tile.blocks


@pytest.mark.parametrize("name", HALO)
def test_halo(name: str) -> None:
    images, make, kind, tile = HALO[name]
    for residual in (False, True):
        assert error(images, make, kind, tile, residual) < limit(kind), residual


@pytest.mark.parametrize("chosen", [CONV["dense, fp16"], HALO["dense, fp16"]], ids=["conv", "halo"])
def test_what_the_kernel_before_writes_is_read_late(
    chosen: tuple[int, Make, Kind, Tile | Halo],
) -> None:
    assert error(*chosen, residual=True, late=True) < limit(DENSE_FP16)

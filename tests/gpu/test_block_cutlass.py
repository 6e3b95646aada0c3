"""cutlass/block.cu against float64 on awkward shapes with every tile, and what nvcc says of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from csbench.backends.block.cutlass import BlockCutlass
from csbench.backends.block.cutlass_layer import ARCHITECTURE, SOURCE, CutlassLayer
from csbench.backends.block.cutlass_tile import Tile
from csbench.backends.dense.algorithms import TORCH_DTYPE, sample
from csbench.graph import reference
from csbench.graph.program import Conv
from csbench.kernels.cutlass import nvcc
from tests.gpu.shapes import AWKWARD, TOLERANCE, case, convolution, poisoned_memory
from tests.kernels.compiled import Compiled, needs_nvcc

SHAPES = {
    **AWKWARD,
    "unpruned 3x3": {
        "cin": 128, "cout": 256, "kernel": (3, 3), "size": (9, 11), "stride": 2, "sparsity": 0.0,
        "residual": True,
    },
    "unpruned 1x1": {
        "cin": 256, "cout": 512, "kernel": (1, 1), "size": (14, 14), "sparsity": 0.0,
        "residual": True,
    },
    "16x16 blocks": {"cin": 48, "cout": 80, "kernel": (3, 3), "size": (5, 9), "block": (16, 16)},
}  # fmt: skip

backend = BlockCutlass()


def ready() -> None:
    if (missing := backend.missing("cuda")) is not None:
        pytest.skip(missing)


def errors(conv: Conv, dtype: str, seed: int) -> dict[str, float]:
    """The error of every tile, each compiled first, side by side."""
    layer = CutlassLayer(conv, case(dtype))
    CutlassLayer.compile_all(layer.tiles.values())
    generator = torch.Generator("cuda").manual_seed(seed)
    kind = TORCH_DTYPE[dtype]
    x = torch.randn(3, *conv.input_size, device="cuda", generator=generator).to(kind)
    residual = None
    if conv.residual:
        residual = torch.randn(3, *conv.output_size, device="cuda", generator=generator).to(kind)
    expected = reference.convolution(conv, x, residual)
    with poisoned_memory():
        return {
            name: reference.relative_error(layer.run(tile, x, residual), expected)
            for name, tile in layer.tiles.items()
        }


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_tile_equals_the_reference(shape: str, dtype: str) -> None:
    ready()
    for seed in (1, 2):
        wrong = {
            name: error
            for name, error in errors(convolution(**SHAPES[shape], seed=seed), dtype, seed).items()
            if not error < TOLERANCE[dtype]
        }
        assert not wrong


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_every_tile_ends_where_the_device_is_full(dtype: str) -> None:
    """Launches that overlap, in more blocks than run at once; and blocks past the last image."""
    ready()
    conv = convolution(256, 256, (3, 3), (28, 28), stride=2, sparsity=0.9)
    given = case(dtype, batch=64)
    layer = CutlassLayer(conv, given)
    x, _ = sample(conv, given, "NHWC")
    expected = reference.convolution(conv, x)
    assert len(layer.ranked(conv, given)) == len(layer.tiles)
    for name, tile in layer.tiles.items():
        error = reference.relative_error(layer.run(tile, x), expected)
        assert error < TOLERANCE[dtype], name


@pytest.mark.gpu
def test_lowered_layer_takes_any_memory_format_and_can_be_captured() -> None:
    ready()
    conv = convolution(64, 64, (3, 3), (14, 14), residual=True)
    lowered = backend.lower(conv, case(batch=2))
    x, residual = (torch.randn(2, 64, 14, 14, device="cuda") for _ in range(2))
    eager = lowered(x, residual.contiguous(memory_format=torch.channels_last))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = lowered(x, residual)
    x.copy_(torch.randn_like(x))
    graph.replay()
    expected = reference.convolution(conv, x, residual)
    assert reference.relative_error(captured, expected) < TOLERANCE["fp32"]
    assert reference.relative_error(eager, expected) > 0.1
    assert lowered.weight_bytes <= 1.2 * (conv.weight.count_nonzero() * 4 + 4096)


@pytest.mark.gpu
def test_nan_is_not_hidden_by_relu() -> None:
    ready()
    conv = convolution(32, 32, (1, 1), (4, 4), sparsity=0.0)
    x = torch.randn(3, 32, 4, 4, device="cuda")
    x[1, 5, 2, 3] = float("nan")
    out = backend.lower(conv, case())(x)
    assert out[1, :, 2, 3].isnan().all()
    assert out.isnan().sum() == 32


@needs_nvcc
@pytest.mark.skipif(nvcc.headers() is None, reason="no CUTLASS headers")
@pytest.mark.parametrize(
    "tile",
    [
        Tile(32, 16, 8, 4, "fp32"),
        Tile(32, 32, 4, 4, "tf32"),
        Tile(128, 64, 2, 8, "fp16"),
        Tile(256, 64, 1, 8, "bf16"),
    ],
    ids=str,
)
def test_kernel_compiles_without_spills_or_waits(tile: Tile, tmp_path: Path) -> None:
    """A register that ptxas does not see through makes every wgmma wait for the one before."""
    call = nvcc.command(SOURCE, tile.options, ARCHITECTURE, tmp_path / "kernel.cubin")
    done = subprocess.run([*call, "-Xptxas", "-v"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Compiled(done.stderr).spilled == 0, done.stderr
    assert "wgmma.mma_async instructions are serialized" not in done.stderr

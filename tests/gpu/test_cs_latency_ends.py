"""latency/stem.cu and latency/head.cu against float64 on awkward shapes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor

from csbench.backends.base import TORCH_DTYPE
from csbench.backends.cs.latency_ends import first, head_fits, pack_head, pack_stem, stem_fits
from csbench.graph.program import Activation, Conv, output_hw
from csbench.kernels.latency import io
from csbench.kernels.latency.head import head_options
from csbench.kernels.latency.pack import Order
from csbench.kernels.latency.stem import stem_options
from tests.gpu.shapes import TOLERANCE, poisoned_memory
from tests.kernels.compiled import HOPPER, compiled, needs_nvcc

# (images, channels, height, width, rows, kernel, padding, activation)
STEMS = (
    (1, 3, 224, 224, 64, 7, 3, "relu"), (2, 3, 37, 51, 96, 7, 3, "none"),
    (3, 1, 30, 17, 10, 5, 2, "relu6"), (1, 4, 9, 9, 70, 6, 0, "relu"),
    (2, 2, 16, 64, 32, 3, 1, "none"),
)  # fmt: skip
# (images, channels, pixels along one side, rows)
HEADS = ((1, 2048, 7, 1000), (3, 512, 1, 10), (8, 128, 3, 130), (2, 1024, 9, 65))


def layer(
    cin: int, size: tuple[int, int], cout: int, kernel: int = 1, padding: int = 0, stride: int = 1,
    activation: Activation = "none",
) -> Conv:  # fmt: skip
    draw = torch.Generator().manual_seed(cin + cout)
    weight = torch.randn(cout, cin, kernel, kernel, generator=draw) / (cin * kernel**2) ** 0.5
    strides, paddings = (stride,) * 2, (padding,) * 2
    out = output_hw(size, (kernel,) * 2, strides, paddings, (1, 1))
    return Conv(
        "layer", weight, torch.randn(cout, generator=draw), strides, paddings, (1, 1), 1,
        activation, False, (cin, *size), (cout, *out),
    )  # fmt: skip


def error(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected).abs().max() / expected.abs().max())


def convolved(conv: Conv, x: Tensor) -> Tensor:
    """In float64, then max pooling."""
    weight, bias = conv.weight.double().to(x.device), conv.bias.double().to(x.device)
    y = F.conv2d(x.double(), weight, bias, conv.stride, conv.padding)
    if conv.activation != "none":
        y = y.clamp(0, 6 if conv.activation == "relu6" else None)
    return F.max_pool2d(y, 3, 2, 1)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("shape", STEMS, ids=str)
def test_stem_equals_the_reference(shape: tuple[int, ...], dtype: str) -> None:
    images, cin, height, width, cout, kernel, padding, activation = shape
    conv = layer(cin, (height, width), cout, kernel, padding, 2, activation)  # type: ignore[arg-type]
    assert stem_fits(conv, (3, 2, 1))
    order, split = Order(cout, 2 if cout % 2 == 0 else 1), dtype == "fp32"
    stem = pack_stem(conv, split, order, (8.0, 4.0), "cuda")
    x = torch.randn(images, cin, height, width, device="cuda").to(TORCH_DTYPE[dtype])
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        with poisoned_memory():
            out = stem(given)
            got = io.unpack(out)
        assert bool((out.data[..., order.channel < 0] == 0).all())
        assert error(got, convolved(conv, x)) < TOLERANCE[dtype]


@pytest.mark.gpu
def test_stem_keeps_nan() -> None:
    conv = layer(3, (32, 32), 64, 7, 3, 2, "relu")
    x = torch.randn(1, 3, 32, 32, device="cuda")
    x[0, 1, 9, 20] = float("nan")
    got = io.unpack(pack_stem(conv, True, Order(64, 2), (1.0, 1.0), "cuda")(x))
    assert bool((got.isnan() | ~convolved(conv, x).isnan()).all())
    assert not bool(got.isnan().all())


@pytest.mark.gpu
def test_max_pooling_keeps_nan_as_torch_does() -> None:
    x = torch.randn(2, 32, 9, 11, device="cuda")
    x[1, 5, 4, 6] = float("nan")
    window = io.Window((3, 3), (2, 2), (1, 1))
    got = io.unpack(io.max_pool(io.pack(x, True, Order(32, 1)), window, 5, 6))
    assert torch.equal(got.isnan(), F.max_pool2d(x, 3, 2, 1).isnan())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", HEADS, ids=str)
def test_head_equals_the_reference(shape: tuple[int, ...], dtype: str) -> None:
    images, channels, side, rows = shape
    conv, order, split = layer(channels, (1, 1), rows), Order(channels, 8), dtype == "fp32"
    assert head_fits(conv, split, order, images)
    x = torch.randn(images, channels, side, side, device="cuda") + 0.5
    packed = io.pack(x, split, order, 16.0)
    with poisoned_memory():
        got = pack_head(conv, split, order, 16.0, "cuda")(packed, TORCH_DTYPE[dtype])
    weight, bias = conv.weight.double().cuda(), conv.bias.double().cuda()
    expected = F.conv2d(x.double().mean((2, 3), keepdim=True), weight, bias)
    assert got.dtype == TORCH_DTYPE[dtype] and got.shape == expected.shape
    assert error(got, expected) < TOLERANCE[dtype]


@needs_nvcc
@pytest.mark.parametrize("split", [True, False], ids=["two planes", "one plane"])
def test_ends_compile_for_hopper_without_spills(split: bool, tmp_path: Path) -> None:
    conv = layer(3, (224, 224), 64, 7, 3, 2, "relu")
    stem = stem_options(first(conv), split, torch.float32 if split else torch.half)
    jobs = {"latency/stem.cu": stem, "latency/head.cu": head_options(split, not split)}
    for file, options in jobs.items():
        assert compiled(file, options, HOPPER, tmp_path).spilled == 0

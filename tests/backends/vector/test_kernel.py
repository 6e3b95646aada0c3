"""The gather kernels' own source against float64, on a CPU (tests/kernels/host)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial

import pytest
import torch

from csbench.backends.base import TORCH_DTYPE
from csbench.backends.vector import gather
from csbench.backends.vector.depthwise import Depthwise
from csbench.backends.vector.layer import Layer, kind_of
from csbench.core.case import Case
from csbench.core.pattern import parse
from csbench.graph import reference
from csbench.graph.program import Conv
from csbench.kernels import search
from csbench.kernels.gather import io
from csbench.kernels.gather.layout import Unfolding
from csbench.kernels.gather.tile import Tile, packing, plan
from tests.backends.vector.shapes import layer, units_of
from tests.kernels.host import host

pytestmark = host.needs_gxx

TOLERANCE = {"fp32": 1e-6, "fp16": 1e-3, "bf16": 6e-3}


@pytest.fixture(autouse=True)
def _on_the_host(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Three multiprocessors, so that blocks go through several tiles; memory starts as NaN."""
    host.install(monkeypatch, processors=3)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


# Each: batch, layer, pattern, precision, tile, blocks of a cluster, boxes of a stage.
WHOLE = partial(Tile, parts=1, split=False, blocks=1)
SPLIT = partial(Tile, m=4, along=1, split=True, blocks=1)
TOGETHER = partial(WHOLE, 32, 4, along=4, promote=0, ahead=0, together=True)
CASES = [
    (64, layer(64, 130, (2, 3), residual=True), "ovw:32@50%", "fp16",
     WHOLE(32, 4, 2, 2, promote=0, ahead=2), 1, 1),
    (64, layer(100, 64, (3, 3), kernel=3, residual=True), "ovw:32@93.75%", "fp32",
     WHOLE(32, 4, 2, 1, promote=8, ahead=1), 1, 2),
    (70, layer(64, 64, (4, 4), kernel=3, stride=2, activation="relu6"), "shfl-bw:16@75%", "fp32",
     WHOLE(16, 8, 2, 1, promote=8, ahead=1), 1, 1),
    (64, layer(64, 40, (2, 2)), "ovw:8@50%", "bf16", WHOLE(8, 8, 2, 1, promote=0, ahead=2), 1, 1),
    (64, layer(192, 64, (2, 3), kernel=3, residual=True), "ovw:32@87.5%", "fp16",
     WHOLE(32, 8, 2, 2, promote=0, ahead=3), 1, 2),
    (64, layer(70, 100, (5, 4), kernel=3, residual=True), "ovw:32@75%", "fp16",
     WHOLE(32, 4, 2, 4, promote=0, ahead=2, shared=True), 1, 16),
    (100, layer(32, 64, (2, 3), kernel=3, activation="relu6"), "ovw:32@50%", "fp32",
     WHOLE(32, 4, 1, 4, promote=8, ahead=1, shared=True), 1, 16),
    (64, layer(48, 128, (3, 6), kernel=3), "ovw:32@93.75%", "bf16",
     WHOLE(32, 8, 4, 2, promote=0, ahead=3, shared=True), 1, 16),
    (64, layer(40, 64, (4, 5), kernel=2, padding=1), "shfl-bw:16@50%", "fp16",
     WHOLE(16, 8, 2, 2, promote=0, ahead=1, shared=True), 1, 9),
    (65, layer(33, 64, (3, 2), kernel=3, padding=5), "ovw:32@75%", "fp16",
     WHOLE(32, 4, 2, 4, promote=0, ahead=2, shared=True), 1, 16),
    (48, layer(17, 40, (3, 5), kernel=2, padding=0, residual=True), "ovw:32@50%", "fp16",
     WHOLE(32, 4, 2, 4, promote=0, ahead=2, shared=True), 1, 9),
    (64, layer(70, 100, (5, 4), kernel=3, residual=True), "ovw:32@75%", "fp16",
     TOGETHER(groups=2, shared=True), 1, 16),
    (64, layer(48, 128, (3, 6), kernel=3), "ovw:32@50%", "bf16",
     TOGETHER(groups=4, shared=True, copying=True), 1, 16),
    (64, layer(40, 128, (3, 6), kernel=3, residual=True), "ovw:32@50%", "fp16",
     TOGETHER(groups=2, shared=True, copying=True), 1, 16),
    (64, layer(70, 224, (3, 3), kernel=3), "ovw:32@75%", "fp16",
     TOGETHER(groups=4, shared=True, copying=True), 1, 16),
    (70, layer(128, 60, (3, 4), kernel=3, residual=True), "ovw:32@50%", "bf16",
     TOGETHER(groups=1, shared=True, copying=True), 1, 16),
    (64, layer(70, 64, (3, 4), kernel=3), "ovw:32@75%", "fp16",
     TOGETHER(groups=2, blocks=2, shared=True), 1, 16),
    (64, layer(130, 128, (2, 2)), "ovw:32@75%", "fp16",
     TOGETHER(groups=2, blocks=2), 1, 1),
    (70, layer(64, 96, (4, 4), kernel=3, stride=2), "shfl-bw:32@93.75%", "fp16",
     TOGETHER(groups=1), 1, 2),
    (64, layer(192, 64, (2, 3), residual=True), "ovw:32@50%", "fp16",
     TOGETHER(groups=2, copying=True), 1, 1),
    (17, layer(64, 70, (3, 3), kernel=3, residual=True), "ovw:32@75%", "fp16",
     WHOLE(32, 4, 2, 1, promote=0, ahead=0), 1, 1),
    (20, layer(70, 64, (5, 6), kernel=3, stride=2, padding=0), "ovw:32@50%", "fp16",
     WHOLE(32, 4, 2, 1, promote=0, ahead=1), 1, 1),
    (3, layer(64, 96, (7, 5)), "ovw:32@50%", "fp16", WHOLE(32, 4, 2, 2, promote=0, ahead=2), 1, 1),
    (3, layer(192, 96, (7, 5)), "ovw:32@50%", "fp16", WHOLE(32, 4, 4, 1, promote=0, ahead=0), 1, 2),
    (1, layer(130, 40, (9, 7), kernel=3), "shfl-bw:16@75%", "bf16",
     WHOLE(16, 8, 1, 2, promote=0, ahead=0), 1, 1),
    (2, layer(200, 8, (4, 6), residual=True), "ovw:8@93.75%", "fp16",
     WHOLE(8, 8, 1, 1, promote=0, ahead=0), 1, 4),
    (1, layer(64, 96, (9, 7), kernel=3, stride=2, residual=True), "ovw:32@75%", "fp16",
     SPLIT(32, groups=2, parts=2, promote=0, ahead=2), 4, 1),
    (2, layer(70, 80, (5, 6), kernel=3, dilation=2, residual=True), "ovw:16@50%", "fp32",
     SPLIT(16, groups=4, parts=2, promote=8, ahead=1), 2, 1),
    (1, layer(130, 40, (1, 1), activation="none"), "dense", "fp32",
     SPLIT(32, groups=1, parts=2, promote=0, ahead=1), 1, 1),
]  # fmt: skip


def names(value: object) -> str:
    if isinstance(value, Tile):
        return "split" if value.split else "window" if value.shared else "whole"
    return "x".join(map(str, value.weight.shape)) if isinstance(value, Conv) else str(value)


@pytest.mark.parametrize(
    ("batch", "conv", "spec", "dtype", "tile", "ranks", "boxes"), CASES, ids=names
)
def test_convolution(
    batch: int, conv: Conv, spec: str, dtype: str, tile: Tile, ranks: int, boxes: int
) -> None:
    weight, units = units_of(conv.weight, spec)
    conv = dataclasses.replace(conv, weight=weight)
    kind = kind_of(dtype)
    scales = (64.0, 8.0, 32.0) if kind.planes == 2 else (1.0, 1.0, 1.0)
    gains = [torch.tensor(scale) for scale in scales]
    made = Layer(conv, units, kind, batch, "cpu", scales)
    x = torch.randn(batch, *conv.input_size)
    residual = torch.randn(batch, *conv.output_size) if conv.residual else None
    pack = partial(io.pack, planes=kind.planes, bf16=kind.bf16)
    added = None if residual is None else pack(residual, gain=gains[1])
    records = 0 if tile.ahead else made.weights.records(packing(tile, boxes))
    chosen = plan(kind, tile, ranks, boxes, conv.residual, records)
    assert chosen is not None
    out = io.unpack(made.run_with(chosen, pack(x, gain=gains[0]), added), gains[2], torch.float32)
    error = reference.relative_error(out, reference.convolution(conv, x, residual))
    assert error < TOLERANCE[dtype]


@pytest.mark.parametrize(("batch", "found"), [(1, True), (20, True), (64, False)])
def test_records_come_with_the_stages_at_small_batch(batch: int, found: bool) -> None:
    """In layers of one pixel too, whose columns are flat."""
    for kernel in (1, 3):
        _, units = units_of(torch.randn(256, 256, kernel, kernel), "ovw:32@75%")
        conv = layer(256, 256, (28, 28), kernel=kernel)
        plans = Layer(conv, units, kind_of("fp16"), batch, "cpu").plans
        assert any("with records" in name for name in plans) == found


UNFOLDED = [
    (1, layer(64, 96, (9, 17)), Unfolding(17, 3, 1, 1, 1)),
    (1, layer(64, 96, (3, 70)), Unfolding(70, 3, 1, 1, 1)),
    (1, layer(64, 32, (3, 71)), Unfolding(36, 3, 2, 1, 1)),
    (2, layer(64, 40, (7, 8), kernel=3, residual=True), Unfolding(4, 3, 2, 1, 1)),
    (2, layer(64, 40, (5, 30), kernel=3), Unfolding(30, 3, 1, 1, 1)),
    (3, layer(70, 64, (4, 5)), Unfolding(5, 2, 1, 1, 2)),
    (1, layer(64, 96, (3, 24)), Unfolding(24, 2, 1, 0, 1)),
    (1, layer(64, 32, (5, 11)), Unfolding(6, 1, 2, 0, 1)),
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize(("batch", "conv", "unfolding"), UNFOLDED)
@pytest.mark.parametrize("split", [False, True])
def test_a_layer_leaves_what_the_next_one_reads(
    batch: int, conv: Conv, unfolding: Unfolding, split: bool, dtype: str
) -> None:
    """Bit by bit what a kernel of its own makes of the result."""
    weight, units = units_of(conv.weight, "ovw:32@50%")
    conv, kind = dataclasses.replace(conv, weight=weight), kind_of(dtype)
    made = Layer(conv, units, kind, batch, "cpu", unfolding=unfolding)
    pack = partial(io.pack, planes=kind.planes, bf16=False, gain=torch.tensor(1.0))
    added = pack(torch.randn(batch, *conv.output_size)) if conv.residual else None
    tile = SPLIT(32, groups=2, parts=2, promote=0, ahead=1) if split else (
        WHOLE(32, 4, 2, 1, promote=0, ahead=1)
    )  # fmt: skip
    chosen = plan(kind, tile, 2 if split else 1, 1, conv.residual, 0)
    assert chosen is not None
    out = made.run_with(chosen, pack(torch.randn(batch, *conv.input_size)), added)
    assert out.unfolded is not None

    def read(data: torch.Tensor) -> torch.Tensor:
        return data.view(len(data), -1, unfolding.taps, unfolding.pitch)[..., : unfolding.out_width]

    assert torch.equal(read(out.unfolded), read(io.unfold(out, unfolding).data))


LATE = [
    (64, WHOLE(32, 4, 2, 2, promote=0, ahead=2), 1), (64, TOGETHER(groups=2, copying=True), 1),
    (3, WHOLE(32, 4, 2, 1, promote=0, ahead=0), 1),
    (1, SPLIT(32, groups=2, parts=2, promote=0, ahead=2), 2),
]  # fmt: skip


@pytest.mark.parametrize(("batch", "tile", "ranks"), LATE, ids=str)
def test_what_the_kernel_before_writes_is_read_late(batch: int, tile: Tile, ranks: int) -> None:
    """Weights are asked for early; activations, scales and biases may be its results."""
    weight, units = units_of(torch.randn(64, 256, 1, 1), "ovw:32@50%")
    conv = dataclasses.replace(layer(256, 64, (2, 3), residual=True), weight=weight)
    made = Layer(conv, units, kind_of("fp16"), batch, "cpu")
    x, residual = torch.randn(batch, 256, 2, 3), torch.randn(batch, 64, 2, 3)
    given = [io.pack(v, 1, False, torch.ones(())) for v in (x, residual)]
    records = 0 if tile.ahead else made.weights.records(packing(tile, 1))
    chosen = plan(made.kind, tile, ranks, 1, True, records)
    assert chosen is not None
    with host.ends_late([given[0].data, given[1].data, made.unscale, made.bias]):
        out = made.run_with(chosen, *given)
    found = io.unpack(out, torch.ones(()), torch.float32)
    assert reference.relative_error(found, reference.convolution(conv, x, residual)) < 1e-3


@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_zeros_meet_no_input(dtype: str, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is infinite in one channel reaches the outputs that keep it, and no others."""
    monkeypatch.setattr(search, "ranking", lambda runs, *_: sorted(runs))
    weight, _ = units_of(torch.randn(64, 130, 1, 1), "ovw:32@75%")
    conv = dataclasses.replace(
        layer(130, 64, (1, 2), activation="none"), weight=weight, pattern=parse("ovw:32@75%")
    )
    case = Case(
        task="layer", model="m", pattern="ovw", sparsity=0.75, backend="ovw", baseline="cudnn",
        device="cpu", dtype=dtype, batch=batch,
    )  # fmt: skip
    lowered = gather.lower(conv, case)
    for channel in range(0, 130, 13):
        x = torch.zeros(batch, *conv.input_size, dtype=TORCH_DTYPE[dtype])
        x[:, channel] = torch.inf
        kept = weight[:, channel, 0, 0] != 0
        out = lowered(x).float()
        assert not out[:, kept].isfinite().any()
        wanted = conv.bias[~kept, None, None]
        assert torch.allclose(out[:, ~kept], wanted, rtol=1e-3, atol=1e-6)  # fp16's smallest: 6e-8


SIZES = [
    (1, 3, 5, 7), (2, 70, 3, 4), (20, 64, 2, 3), (70, 33, 2, 2), (2, 3, 9, 40), (9, 5, 8, 9),
    (70, 40, 1, 1), (1, 70, 1, 1),
]  # fmt: skip
ORDERS = [(0, 1, 2, 3), (0, 2, 3, 1), (0, 1, 3, 2), (3, 2, 1, 0)]  # of dimensions in memory


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_conversions_are_each_others_inverse(size: tuple[int, int, int, int]) -> None:
    gain = torch.tensor(4.0)
    x = torch.randn(size)
    for order in ORDERS:
        back = [order.index(d) for d in range(4)]
        packed = io.pack(x.permute(order).contiguous().permute(back), 2, False, gain)
        assert reference.relative_error(io.unpack(packed, gain, torch.float32), x) < 1e-6


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_packed_images_of_wgmma_become_columns(size: tuple[int, int, int, int]) -> None:
    n, c, h, w = size
    blocks = -(-c // 64)
    x = torch.randn(n, h, w, 2, blocks * 64).half()
    x[..., c:] = 0
    packed = x.reshape(n, h, w, 2, blocks, 64).transpose(3, 4).reshape(n, h, w, -1)
    out = io.unpack(io.from_packed(packed, c, 2), torch.ones(()), torch.float32)
    assert torch.equal(out, x.float().sum(3)[..., :c].permute(0, 3, 1, 2))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_poolings(size: tuple[int, int, int, int]) -> None:
    one = torch.ones(())
    x = torch.randn(size).half().float()
    packed = io.pack(x, 2, False, one)
    expected = torch.nn.functional.max_pool2d(x, 2, 2, 1)
    h, w = expected.shape[2:]
    largest = io.max_pool(packed, (2, 2), (2, 2), (1, 1), (h, w))
    assert torch.equal(io.unpack(largest, one, torch.float32), expected)
    mean = io.unpack(io.mean_pool(packed), one, torch.float32)
    assert reference.relative_error(mean, x.double().mean((2, 3), keepdim=True)) < 3e-7


@pytest.mark.parametrize("batch", [2, 24])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise(batch: int, stride: int) -> None:
    conv = layer(10, 10, (5, 7), kernel=3, stride=stride, groups=10, activation="relu6")
    x = torch.randn(batch, *conv.input_size) * 3
    out = Depthwise(conv, "cpu", 8.0, 32.0).run(io.pack(x, 2, False, torch.tensor(8.0)))
    found = io.unpack(out, torch.tensor(32.0), torch.float32)
    assert reference.relative_error(found, reference.convolution(conv, x)) < 1e-6

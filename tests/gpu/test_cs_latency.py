"""latency/conv.cu against float64 on awkward shapes, and its host side without a GPU."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from msgspec.structs import replace

from csbench.backends.base import TORCH_DTYPE
from csbench.backends.cs import latency as gpu_cs_latency
from csbench.backends.cs import latency_layer as layers
from csbench.backends.cs.latency_pair import APART, Pair
from csbench.backends.cs.latency_plan import prepare
from csbench.bench.weights import Library
from csbench.core.case import Case
from csbench.core.pattern import PatternSpec, parse
from csbench.graph import reference
from csbench.graph.program import Activation, Conv, output_hw
from csbench.kernels.latency import io, launch
from csbench.kernels.latency import plan as plans
from csbench.kernels.latency.pack import VECTORS, Order, pack_weights
from csbench.sparse.patterns import for_spec
from tests.gpu.shapes import TOLERANCE, poisoned_memory
from tests.kernels.compiled import HOPPER, compiled, needs_nvcc

# (images, cin, size, cout, kernel, stride, padding): odd channel counts, 7x7, 5x5, strides
SHAPES = {
    "3x3": (1, 64, 14, 64, 3, 1, 1),
    "odd groups, batch 3": (3, 48, 7, 24, 3, 1, 1),
    "5x5, stride 2": (2, 80, 9, 20, 5, 2, 2),
    "rows of 30": (1, 36, 14, 30, 3, 2, 1),
    "17 groups": (2, 34, 7, 10, 1, 1, 0),
    "one group of 16": (1, 16, 8, 8, 3, 1, 1),
    "long K": (1, 512, 7, 128, 3, 1, 1),
    "strided point": (3, 64, 14, 32, 1, 2, 0),
    "linear": (5, 128, 1, 10, 1, 1, 0),
    "five units": (2, 80, 9, 160, 3, 2, 1),
    "longest K": (1, 2048, 7, 96, 1, 1, 0),
}
# Two layers that read one value: a reduction beside a strided projection, a window beside a point.
PAIRS = (
    ((1, 64, 14, 32, 1, 1, 0), (1, 64, 14, 96, 1, 2, 0)),
    ((3, 48, 7, 24, 3, 1, 1), (3, 48, 7, 40, 1, 2, 0)),
    ((1, 64, 14, 96, 1, 1, 0), (1, 64, 14, 160, 1, 2, 0)),
)
OF_VECTORS = ("ovw:32@50%", "ovw:32@93.75%", "shfl-bw:32@75%", "ovw:64@75%", "block:32x32@75%")
PATTERNS = ("", "cs:2", "cs:4", "cs:8", "cs:16", "cs:4:16", "nm:2:4", "nm:1:4", "nm:1:16", "nm:2:8")
SPILL_LIMIT = 16  # bytes, outside the loop over K


def make(
    shape: tuple[int, ...], pattern: str, activation: Activation = "relu", residual: bool = False,
    seed: int = 0,
) -> tuple[Conv, int]:  # fmt: skip
    """A layer with random weights under a pattern ("" for dense), and its batch."""
    images, cin, size, cout, kernel, stride, padding = shape
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(cout, cin, kernel, kernel, generator=draw)
    if pattern:
        weight = weight * for_spec(parse(pattern)).mask(weight)
    weight *= (cout / weight.count_nonzero()) ** 0.5
    out = output_hw((size, size), (kernel,) * 2, (stride,) * 2, (padding,) * 2, (1, 1))
    conv = Conv(
        "layer", weight, torch.randn(cout, generator=draw), (stride,) * 2,
        (padding,) * 2, (1, 1), 1, activation, residual, (cin, size, size), (cout, *out),
        parse(pattern) if pattern else None,
    )  # fmt: skip
    return conv, images


def case(dtype: str, batch: int, sparsity: float = 0.5) -> Case:
    return Case(
        model="resnet18", pattern="cs", sparsity=sparsity, backend="cs", baseline="cudnn",
        device="cuda", dtype=dtype, batch=batch, input=(3, 64, 64),
    )  # fmt: skip


def inputs(conv: Conv, dtype: str, batch: int) -> list[torch.Tensor]:
    sizes = [conv.input_size, *([conv.output_size] if conv.residual else [])]
    return [torch.randn(batch, *s, device="cuda").to(TORCH_DTYPE[dtype]) for s in sizes]


# ---- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("split", [True, False], ids=["two planes", "one plane"])
@pytest.mark.parametrize("pattern", PATTERNS + OF_VECTORS)
@pytest.mark.parametrize("shape", SHAPES)
def test_plans_equal_the_reference(shape: str, pattern: str, split: bool) -> None:
    images, cin, _, cout, kernel, *_ = SHAPES[shape]
    if pattern and for_spec(parse(pattern)).why_not((cout, cin, kernel, kernel)):
        pytest.skip("the pattern does not divide the channels")
    conv, _ = make(SHAPES[shape], pattern, residual=True, seed=len(pattern))
    if reason := layers.why_not(conv, case("fp32" if split else "fp16", images)):
        assert pattern == "ovw:64@75%"
        pytest.skip(reason)
    out_order = Order(cout, 1 if cout % 2 else 2)
    layer = layers.kernelize(conv, images, out_order.stored)
    order = layer.order
    prepared = prepare(layer, split, order, out_order, (8.0, 4.0), "cuda")
    x, residual = inputs(conv, "fp32", images)
    expected = reference.convolution(conv, x, residual)
    px, pr = io.pack(x, split, order, 8.0), io.pack(residual, split, out_order, 2.0)
    ways = sorted(prepared.ways)
    for plan in random.Random(0).sample(ways, min(6, len(ways))):
        with poisoned_memory():
            out = prepared.output()
            assert isinstance(out, io.Planes)
            prepared.convolution(plan).launch(px, out, pr)
            got = io.unpack(out)
        assert bool((out.data[..., out_order.channel < 0] == 0).all()), plan
        limit = TOLERANCE["fp32" if split else "fp16"]
        assert reference.relative_error(got, expected) < limit, plan


@pytest.mark.gpu
@pytest.mark.parametrize("split", [True, False], ids=["two planes", "one plane"])
@pytest.mark.parametrize("pattern", ["", "cs:2", "cs:4", "cs:16", "ovw:32@75%"])
@pytest.mark.parametrize("shapes", PAIRS, ids=str)
def test_pairs_equal_the_reference(
    shapes: tuple[tuple[int, ...], ...], pattern: str, split: bool
) -> None:
    narrowest = min(shapes, key=lambda shape: shape[3])
    if pattern and for_spec(parse(pattern)).why_not((narrowest[3], narrowest[1], 1, 1)):
        pytest.skip("fewer channels than a vector has")
    both = [make(shape, pattern, "relu" if i else "none")[0] for i, shape in enumerate(shapes)]
    images, order = shapes[0][0], layers.grouping(both[0]).order(shapes[0][1])
    out_orders = [Order(conv.weight.shape[0], 2) for conv in both]
    prepared = [
        prepare(layers.kernelize(conv, images, o.stored), split, order, o, (8.0, 4.0), "cuda")
        for conv, o in zip(both, out_orders, strict=True)
    ]
    pair = Pair((prepared[0], prepared[1]))
    x = inputs(both[0], "fp32", images)[0]
    packed = io.pack(x, split, order, 8.0)
    for name in [*random.Random(0).sample(sorted(pair.ways), min(6, len(pair.ways))), APART]:
        with poisoned_memory():
            outs = [io.unpack(out) for out in pair.launch(name, packed)]
        for conv, got in zip(both, outs, strict=True):
            error = reference.relative_error(got, reference.convolution(conv, x))
            assert error < TOLERANCE["fp32" if split else "fp16"], name


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("residual", [False, True])
def test_lowered_layer_takes_any_memory_format(dtype: str, residual: bool) -> None:
    conv, batch = make(SHAPES["odd groups, batch 3"], "cs:4", "relu6", residual)
    lowered = gpu_cs_latency.lower(conv, case(dtype, batch))
    given = inputs(conv, dtype, batch)
    expected = reference.convolution(conv, *given)
    for format in (torch.contiguous_format, torch.channels_last):
        with poisoned_memory():
            got = lowered(*(t.contiguous(memory_format=format) for t in given))
        assert got.dtype == TORCH_DTYPE[dtype]
        assert reference.relative_error(got, expected) < TOLERANCE[dtype]


@pytest.mark.gpu
@pytest.mark.parametrize("pattern", ["cs", "ovw:32", "shfl-bw:32"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_network_equals_the_reference_eager_and_captured(dtype: str, pattern: str) -> None:
    measured = replace(case(dtype, 2, 0.875), pattern=pattern)
    program = Library().sparse(measured).program
    network = gpu_cs_latency.lower_network(program, measured)
    assert network is not None
    assert {layer.ran for layer in network.layers} == {"sparse", "dense"}
    x = torch.randn(2, *measured.input, device="cuda").to(TORCH_DTYPE[dtype])
    with poisoned_memory():
        eager = network(x)
    assert reference.relative_error(eager, reference.run(program, x)) < TOLERANCE[dtype]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = network(x)
    x.copy_(torch.randn_like(x))
    graph.replay()
    assert reference.relative_error(captured, reference.run(program, x)) < TOLERANCE[dtype]


@pytest.mark.gpu
def test_dense_twin_runs_no_layer_sparse_and_agrees() -> None:
    measured = case("fp32", 1, 0.75)
    program = Library().sparse(measured).program
    twin = gpu_cs_latency.lower_network(program, measured, sparse=False)
    assert twin is not None
    assert {layer.ran for layer in twin.layers} == {"dense"}
    x = torch.randn(1, *measured.input, device="cuda")
    assert reference.relative_error(twin(x), reference.run(program, x)) < TOLERANCE["fp32"]


@pytest.mark.gpu
def test_nan_reaches_the_result() -> None:
    conv, batch = make(SHAPES["3x3"], "nm:1:4")
    lowered = gpu_cs_latency.lower(conv, case("fp32", batch))
    x = inputs(conv, "fp32", batch)[0]
    x[0, 5, 7, 7] = float("nan")
    assert bool(lowered(x).isnan().any())


# ---- anywhere


@pytest.mark.parametrize(
    "pattern, channels",
    [("cs:1", 40), ("cs:2", 34), ("cs:2", 64), ("cs:3", 36), ("cs:4", 64), ("cs:8", 48),
     ("cs:8", 32), ("cs:16", 64), ("cs:16", 16), ("cs:16", 256), ("cs:4:16", 48), ("cs:2:8", 64),
     ("nm:1:2", 34), ("nm:1:4", 64), ("nm:1:8", 48), ("nm:1:16", 256)],
)  # fmt: skip
def test_order_places_every_channel_once_and_steps_hold_two_of_four(
    pattern: str, channels: int
) -> None:
    conv, _ = make((1, channels, 3, 32, 3, 1, 1), pattern)
    found = layers.grouping(conv)
    m, order = found.m, found.order(channels)
    stored = order.channel[order.channel >= 0]
    assert sorted(stored.tolist()) == list(range(channels))
    placed = conv.weight.new_zeros(32, order.stored, 3, 3)
    placed[:, order.channel >= 0] = conv.weight[:, stored]
    # In a step, each half of 16 places keeps at most one of any two neighbours.
    if m > 1:
        pairs = (placed != 0).view(32, -1, 2, 3, 3)
        assert int(pairs.sum(2).max()) <= 1


@pytest.mark.parametrize("pattern", ["cs:2", "nm:2:4", "nm:1:2", "nm:2:8", "nm:1:16"])
def test_records_hold_the_values_and_their_places(pattern: str) -> None:
    conv, _ = make((1, 32, 3, 16, 1, 1, 0), pattern)
    order = Order(32, 2) if pattern == "cs:2" else Order(32, 1)
    packed = pack_weights(conv.weight, conv.bias, 2, True, "cpu", order=order)
    assert packed.records.shape == (1, 1, plans.record_bytes(2, True))
    words = packed.records[0, 0, :1024].view(torch.half).float().view(2, 32, 4, 2)
    metadata = packed.records[0, 0, 1024:].view(torch.int32).view(2, 8)
    got = torch.zeros(16, 32)
    for lane in range(32):
        row, column = lane // 4, lane % 4
        for register in range(4):
            down, half = 8 * (register % 2), register // 2
            nibble = int(metadata[half, row]) >> (2 * down + 4 * column) & 15
            place = 16 * half + 4 * column
            for i, index in enumerate((nibble & 3, nibble >> 2)):
                got[row + down, place + index] += words[:, lane, register, i].sum()
    got *= packed.scale[:16, None]
    expected = conv.weight[:, packed.order.channel, 0, 0]
    assert torch.allclose(got, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kernel, padding, size", [(7, 3, 30), (3, 1, 16), (3, 0, 15), (6, 2, 21)])
def test_strided_stem_as_windows_is_the_same_layer(kernel: int, padding: int, size: int) -> None:
    conv, _ = make((1, 3, size, 8, kernel, 2, padding), "", "none")
    layer = layers.kernelize(conv, 1, 8)
    assert layer.windowed
    s, x = layer.shape, torch.randn(1, 3, size, size)
    padded = F.pad(x, (2, 16, 0, 16))
    windows = [
        padded[:, :, dy : dy + 2 * s.height : 2, dx : dx + 2 * s.width : 2]
        for dy in range(2)
        for dx in range(4)
    ]
    far = F.pad(torch.cat(windows, 1), (s.padding[1], 16, s.padding[0], 16))
    out = F.conv2d(far, layer.weight, conv.bias, dilation=s.dilation)
    out = out[:, :, : s.out_height, : s.out_width]
    assert reference.relative_error(out, reference.convolution(conv, x)) < 1e-5


def test_refusals_name_the_reason() -> None:
    conv, batch = make(SHAPES["3x3"], "nm:1:4")
    refuse = lambda **change: gpu_cs_latency.why_not(  # noqa: E731
        dataclasses.replace(conv, **change), case("fp32", batch)
    )
    everything = torch.ones_like(conv.weight)
    assert refuse() is None
    assert "groups" in (refuse(groups=2) or "")
    assert "stride" in (refuse(stride=(1, 2)) or "")
    assert "take cs" in (refuse(pattern=PatternSpec("unstructured")) or "")
    assert "2 of 4" in (refuse(pattern=PatternSpec("nm", (3, 4)), weight=everything) or "")
    assert "more than one" in (refuse(weight=everything) or "")
    assert "tile" in (refuse(input_size=(64, 9, 401), output_size=(64, 9, 401)) or "")


@needs_nvcc
@pytest.mark.parametrize("mode", [VECTORS, 1, 2, 4])
def test_kernels_compile_for_hopper_without_spills(mode: int, tmp_path: Path) -> None:
    order, most = Order(256, mode or 1), None
    if mode == VECTORS:
        most = lambda _: 20 * 2112  # noqa: E731 (bytes of a unit in a chunk: 20 records)
    geometry = plans.Shape(1, 14, 14, 256, 14, 14, (3, 3), 1, (1, 1))
    ways = plans.candidates(geometry, order, mode, True, most)
    widest = {plan.tile.blocks: plan for plan in ways}  # one of each register limit
    for plan in widest.values():
        options = launch.kernel_options(plan, True, mode, False)
        found = compiled("latency/conv.cu", options, HOPPER, tmp_path)
        assert found.spilled <= SPILL_LIMIT, f"{plan}: {found.log}"

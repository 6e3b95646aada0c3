"""The gather kernels against float64 on awkward shapes, every plan, poisoned memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor

from csbench.backends import registry
from csbench.backends.vector import gather
from csbench.backends.vector.depthwise import Depthwise
from csbench.backends.vector.layer import Layer, kind_of
from csbench.backends.vector.units import units_of
from csbench.core.case import Case
from csbench.core.pattern import parse
from csbench.core.tolerance import tolerance
from csbench.graph import reference, trace
from csbench.graph.attach import attach
from csbench.graph.program import Conv, Program
from csbench.kernels import nvrtc
from csbench.kernels.gather import io
from csbench.kernels.gather.layout import Unfolding
from csbench.kernels.gather.tile import Tile, options
from csbench.kernels.wgmma import launch as wgmma
from csbench.models import build, calibrate
from csbench.sparse.network import sparsify_state
from tests.backends import native
from tests.backends.vector.shapes import layer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] != 9,
        reason="needs a Hopper GPU",
    ),
]

TORCH = {"fp16": torch.float16, "bf16": torch.bfloat16}


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Memory from torch.empty holds NaN, so that an element nobody writes is noticed."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def case(dtype: str, batch: int, pattern: str = "ovw") -> Case:
    return Case(
        task="layer", model="m", pattern=pattern, sparsity=0.5, backend=pattern, baseline="cudnn",
        device="cuda", dtype=dtype, batch=batch,
    )  # fmt: skip


def pruned(conv: Conv, spec: str) -> Conv:
    return conv if spec == "dense" else native.pruned(conv, parse(spec))


AWKWARD = [
    (1, layer(64, 128, (7, 7)), "ovw:32@75%"),
    (2, layer(48, 80, (7, 5), kernel=3, residual=True), "ovw:16@50%"),
    (1, layer(256, 512, (7, 7), kernel=3, residual=True), "ovw:32@87.5%"),
    (1, layer(2048, 1000, (1, 1), activation="none"), "dense"),
    (1, layer(3, 32, (19, 23), kernel=3, stride=2, activation="relu6"), "dense"),
    (3, layer(128, 192, (15, 13), kernel=3, stride=2, activation="none"), "shfl-bw:64@75%"),
    (3, layer(70, 96, (9, 9), kernel=3, dilation=2, activation="relu6"), "ovw:8@50%"),
    (1, layer(96, 64, (14, 14), stride=3, residual=True, activation="relu6"), "ovw:32@50%"),
    (8, layer(64, 64, (9, 8), kernel=3, padding=0), "ovw:32@50%"),
    (20, layer(130, 96, (6, 7), kernel=3, stride=2, residual=True), "ovw:16@93.75%"),
    (17, layer(64, 130, (5, 5), residual=True), "ovw:32@75%"),
    (12, layer(48, 80, (7, 6), kernel=3, residual=True), "block:32x32@75%"),
    (64, layer(64, 256, (14, 14), residual=True), "ovw:32@50%"),
    (64, layer(128, 128, (12, 13), kernel=3), "ovw:32@93.75%"),
    (70, layer(256, 64, (7, 9), kernel=3, stride=2, residual=True), "ovw:64@75%"),
    (64, layer(72, 256, (12, 13), kernel=3, residual=True), "ovw:32@50%"),
    (64, layer(40, 250, (14, 13), kernel=3), "ovw:32@75%"),
    (64, layer(64, 64, (28, 28), kernel=3, residual=True), "ovw:16@75%"),
    (100, layer(70, 160, (13, 10), kernel=3, residual=True), "ovw:32@75%"),
    (64, layer(512, 1000, (1, 1), activation="none"), "dense"),
]


def names(value: object) -> str:
    return "x".join(map(str, value.weight.shape)) if isinstance(value, Conv) else str(value)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize(("batch", "conv", "spec"), AWKWARD, ids=names)
def test_every_plan_on_awkward_shapes(
    poisoned: None, batch: int, conv: Conv, spec: str, dtype: str
) -> None:
    check(pruned(conv, spec), batch, dtype, lambda tile: True)


@pytest.mark.parametrize("copying", [False, True])
def test_four_warps_that_multiply_a_unit_by_wgmma(poisoned: None, copying: bool) -> None:
    conv = pruned(layer(40, 250, (14, 13), kernel=3, residual=True), "ovw:32@75%")
    check(conv, 64, "fp16", lambda tile: tile.together and tile.copying == copying)


def check(conv: Conv, batch: int, dtype: str, wanted: Callable[[Tile], bool]) -> None:
    """Every plan with a wanted tile is right, twice the same."""
    kind = kind_of(dtype)
    scales = (64.0, 8.0, 32.0) if kind.planes == 2 else (1.0, 1.0, 1.0)
    gains = [torch.tensor(s, device="cuda") for s in scales]
    made = Layer(conv, units_of(conv), kind, batch, "cuda", scales)
    x = torch.randn(batch, *conv.input_size).relu()
    residual = torch.randn(batch, *conv.output_size) if conv.residual else None
    expected = reference.convolution(conv, x, residual)
    pack = partial(io.pack, planes=kind.planes, bf16=kind.bf16)
    packed = pack(x.cuda(), gain=gains[0])
    added = None if residual is None else pack(residual.cuda(), gain=gains[1])
    plans = {name: plan for name, plan in made.plans.items() if wanted(plan.tile)}
    assert plans
    swizzled = made.geometry.swizzled
    nvrtc.compile_all(
        ("gather/conv.cu", options(kind, plan.tile, swizzled, False)) for plan in plans.values()
    )
    for name, plan in plans.items():
        results = [
            io.unpack(made.run_with(plan, packed, added), gains[2], torch.float32) for _ in range(2)
        ]
        error = reference.relative_error(results[0], expected)
        assert error < tolerance(dtype) / 2, f"{name}: {error:.1e}"
        assert torch.equal(results[0], results[1]), f"{name}: not the same twice"


UNFOLDED = [
    (1, layer(64, 96, (14, 14)), Unfolding(14, 3, 1, 1, 1)),
    (2, layer(96, 64, (9, 27), kernel=3, residual=True), Unfolding(14, 3, 2, 1, 1)),
    (1, layer(256, 512, (7, 7)), Unfolding(4, 1, 2, 0, 1)),
    (1, layer(64, 64, (9, 70)), Unfolding(70, 3, 1, 1, 1)),
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize(("batch", "conv", "unfolding"), UNFOLDED, ids=names)
def test_every_plan_leaves_what_the_next_layer_reads(
    poisoned: None, batch: int, conv: Conv, unfolding: Unfolding, dtype: str
) -> None:
    conv, kind = pruned(conv, "ovw:32@75%"), kind_of(dtype)
    made = Layer(conv, units_of(conv), kind, batch, "cuda", unfolding=unfolding)
    pack = partial(io.pack, planes=kind.planes, bf16=False, gain=torch.ones((), device="cuda"))
    x = pack(torch.randn(batch, *conv.input_size, device="cuda"))
    added = pack(torch.randn(batch, *conv.output_size, device="cuda")) if conv.residual else None

    def read(data: Tensor) -> Tensor:
        return data.view(len(data), -1, unfolding.taps, unfolding.pitch)[..., : unfolding.out_width]

    for name, plan in made.plans.items():
        out = made.run_with(plan, x, added)
        assert out.unfolded is not None
        assert torch.equal(read(out.unfolded), read(io.unfold(out, unfolding).data)), name


@pytest.mark.parametrize("dtype", ["fp32", "tf32", "fp16", "bf16"])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_lowered_layer(poisoned: None, dtype: str, size: float) -> None:
    conv = pruned(layer(64, 96, (10, 9), kernel=3, residual=True), "ovw:32@75%")
    if dtype in TORCH and size > 1:
        pytest.skip("beyond the precision's own range")
    for batch in (1, 12):
        lowered = gather.lower(conv, case(dtype, batch))
        kind = TORCH.get(dtype, torch.float32)
        x = (torch.randn(batch, *conv.input_size) * size).to(kind)
        residual = (torch.randn(batch, *conv.output_size) * size).to(kind)
        expected = reference.convolution(conv, x, residual)
        for memory in (torch.contiguous_format, torch.channels_last):
            arguments = [t.cuda().contiguous(memory_format=memory) for t in (x, residual)]
            out = lowered(*arguments)
            assert out.dtype == kind
            assert reference.relative_error(out, expected) < tolerance(dtype)


SIZES = [(1, 3, 5, 7), (2, 70, 9, 4), (8, 5, 3, 3), (20, 64, 4, 6), (64, 33, 2, 5), (130, 8, 3, 2)]


@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_conversions_are_each_others_inverse(
    poisoned: None, size: tuple[int, int, int, int], planes: int
) -> None:
    gain = torch.tensor(4.0, device="cuda")
    x = torch.randn(size, device="cuda").half().float()
    for memory in (torch.contiguous_format, torch.channels_last):
        packed = io.pack(x.contiguous(memory_format=memory), planes, False, gain)
        assert torch.equal(io.unpack(packed, gain, torch.float32), x)
    kind = wgmma.Kind(sparse=False, planes=planes)
    other = io.from_packed(wgmma.pack(x, kind, gain), size[1], planes)
    assert torch.equal(io.unpack(other, gain, torch.float32), x)


@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_poolings(poisoned: None, size: tuple[int, int, int, int], planes: int) -> None:
    one = torch.ones((), device="cuda")
    x = torch.randn(size, device="cuda").half().float()
    packed = io.pack(x, planes, False, one)
    expected = torch.nn.functional.max_pool2d(x, 2, 2, 1)
    h, w = expected.shape[2:]
    largest = io.max_pool(packed, (2, 2), (2, 2), (1, 1), (h, w))
    assert torch.equal(io.unpack(largest, one, torch.float32), expected)
    mean = io.unpack(io.mean_pool(packed), one, torch.float32)
    assert reference.relative_error(mean, x.mean((2, 3), keepdim=True)) < 1e-3


@pytest.mark.parametrize("batch", [1, 3, 24, 64])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise(poisoned: None, batch: int, stride: int) -> None:
    conv = layer(40, 40, (9, 7), kernel=3, stride=stride, groups=40, activation="relu6")
    x = torch.randn(batch, *conv.input_size) * 3
    gain = torch.tensor(8.0, device="cuda")
    out = Depthwise(conv, "cuda", 8.0, 32.0).run(io.pack(x.cuda(), 2, False, gain))
    found = io.unpack(out, torch.tensor(32.0, device="cuda"), torch.float32)
    assert reference.relative_error(found, reference.convolution(conv, x)) < 1e-6


def test_overflow_is_never_silent() -> None:
    """Beyond the calibrated range numbers become infinite or NaN, through ReLU and later layers."""
    conv = layer(64, 64, (8, 8))
    made = Layer(conv, units_of(conv), kind_of("fp32"), 2, "cuda")
    one = torch.ones((), device="cuda")
    packed = io.pack(torch.full((2, 64, 8, 8), 1e5, device="cuda"), 2, False, one)
    assert not torch.isfinite(io.unpack(made.run(packed), one, torch.float32)).any()


def test_neighbouring_images_do_not_meet(poisoned: None) -> None:
    """An image of NaN, and the padding beside it, leave the others as they are."""
    conv = pruned(layer(64, 64, (6, 6), kernel=3), "ovw:32@50%")
    one = torch.ones((), device="cuda")
    for batch in (3, 12, 50):
        made = Layer(conv, units_of(conv), kind_of("fp16"), batch, "cuda")
        x = torch.randn(batch, 64, 6, 6, device="cuda")
        clean = io.unpack(made.run(io.pack(x, 1, False, one)), one, torch.float32)
        x[1] = float("nan")
        out = io.unpack(made.run(io.pack(x, 1, False, one)), one, torch.float32)
        others = [n for n in range(batch) if n != 1]
        assert torch.equal(out[others], clean[others])
        assert out[1].isnan().all()


def sparse_program(model: str, spec: str, size: int) -> Program:
    network = build(model, seed=3, num_classes=10)
    calibrate(network, (3, size, size))
    state, plan = sparsify_state(network.state_dict(), parse(spec))
    network.load_state_dict(state)
    carried = {name: found for name, found in plan.items() if not isinstance(found, str)}
    return attach(trace(network, (3, size, size), model), carried)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("batch", [1, 9, 50])
def test_whole_network(dtype: str, batch: int) -> None:
    program = sparse_program("resnet18", "shfl-bw:32@75%", 64)
    network = registry.get("shfl-bw").lower_network(program, case(dtype, batch, "shfl-bw"))
    assert {report.name for report in network.layers} == {c.name for c in program.convolutions}
    assert [r.name for r in network.layers if r.ran == "dense"] == ["conv1", "fc"]
    x = torch.randn(batch, 3, 64, 64).to(TORCH.get(dtype, torch.float32))
    error = reference.relative_error(network(x.cuda()), reference.run(program, x))
    assert error < {"fp32": 1e-5, "fp16": 1e-2, "bf16": 4e-2}[dtype]


@pytest.mark.parametrize("model", ["vgg16_bn", "mobilenet_v2"])
def test_other_networks(model: str) -> None:
    program = sparse_program(model, "ovw:16@50%", 64)
    x = torch.randn(8, 3, 64, 64)
    network = gather.lower_network(program, case("fp32", 8))
    assert {report.name for report in network.layers} == {c.name for c in program.convolutions}
    assert any(report.ran == "sparse" for report in network.layers)
    assert reference.relative_error(network(x.cuda()), reference.run(program, x)) < 1e-5


def test_dense_twin() -> None:
    program = sparse_program("resnet18", "ovw:32@75%", 64)
    network = gather.lower_network(program, case("fp32", 2), sparse=False)
    assert {report.ran for report in network.layers} == {"dense"}
    x = torch.randn(2, 3, 64, 64)
    assert reference.relative_error(network(x.cuda()), reference.run(program, x)) < 1e-5

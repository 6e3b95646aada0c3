"""The wgmma kernels: the packed weights decode on a CPU, and results match float64 on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from csbench.backends.cs import throughput as gpu_cs_throughput
from csbench.backends.cs.throughput_layer import Layer, Stem, kind_of
from csbench.core.case import Case
from csbench.core.pattern import PatternSpec, parse
from csbench.graph import reference, trace
from csbench.graph.attach import attach
from csbench.graph.program import Conv, Program
from csbench.kernels.wgmma import halo, launch
from csbench.kernels.wgmma.halo import Halo
from csbench.kernels.wgmma.stem import stem_options
from csbench.kernels.wgmma.tile import Kind, candidates, options
from csbench.models import build, calibrate
from csbench.sparse.network import sparsify_state
from csbench.sparse.patterns import for_spec
from tests.kernels.compiled import HOPPER, compiled, needs_nvcc

TOLERANCE = {"fp32": 1e-5, "tf32": 1e-5, "fp16": 2e-3, "bf16": 2e-2}


def pruned(weight: Tensor, pattern: str) -> Tensor:
    """The weight under a pattern that it can carry."""
    return weight * for_spec(parse(pattern)).mask(weight)


SPILL_LIMIT = 32  # bytes
STEM = launch.Geometry(3, 64, (224, 224), (112, 112), (7, 7), (2, 2), (3, 3), (1, 1))
SOURCES = [
    *(("wgmma/conv.cu", options(Kind(True, planes), tile))
      for planes in (1, 2) for tile in list(candidates(Kind(True, planes), 4, 9).values())[:2]),
    *(("wgmma/halo.cu", halo.options(Kind(True, planes), Halo(56))) for planes in (1, 2)),
    *((f"wgmma/{name}.cu", stem_options(Kind(False, 2), STEM, torch.float32))
      for name in ("stem", "stem_pool")),
    ("wgmma/io.cu", ("-DCS_BF16=0", "-DCS_PLANES=2", "-DCS_PLAIN=0")),
]  # fmt: skip


@needs_nvcc
@pytest.mark.parametrize(("file", "chosen"), SOURCES, ids=lambda v: v if isinstance(v, str) else "")
def test_kernels_compile_without_spills(file: str, chosen: tuple[str, ...], tmp_path: Path) -> None:
    found = compiled(file, chosen, HOPPER, tmp_path)
    assert found.spilled <= SPILL_LIMIT, found.log
    assert "serialized" not in found.log  # ptxas made the matrix instructions wait for each other


# ---- on a GPU

hopper = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] != 9,
    reason="needs a Hopper GPU",
)


def case(dtype: str, batch: int) -> Case:
    return Case(
        task="layer", model="m", pattern="cs", sparsity=0.5, backend="cs", baseline="cudnn",
        device="cuda", dtype=dtype, batch=batch,
    )  # fmt: skip


def layer(
    cin: int, cout: int, size: tuple[int, int], kernel: int = 1, stride: int = 1,
    pattern: str = "nm:2:4", residual: bool = False, relu: bool = True, dilation: int = 1,
) -> Conv:  # fmt: skip
    padding = kernel // 2 * dilation
    reach = (kernel - 1) * dilation + 1
    out = tuple((s + 2 * padding - reach) // stride + 1 for s in size)
    weight = torch.randn(cout, cin, kernel, kernel) * (2 / (cin * kernel**2)) ** 0.5
    return Conv(
        name="layer", weight=pruned(weight, pattern), bias=torch.randn(cout),
        stride=(stride, stride), padding=(padding, padding), dilation=(dilation, dilation),
        groups=1, activation="relu" if relu else "none", residual=residual,
        input_size=(cin, *size), output_size=(cout, out[0], out[1]),
        pattern=parse(pattern),
    )  # fmt: skip


AWKWARD = [
    (3, layer(64, 128, (7, 7))),
    (3, layer(48, 80, (7, 5), kernel=3, residual=True)),
    (3, layer(128, 256, (15, 13), kernel=3, stride=2, relu=False)),
    (2, layer(256, 512, (14, 14), stride=2, pattern="nm:1:4", relu=False)),
    (3, layer(512, 512, (7, 7), kernel=3, pattern="nm:1:16", residual=True)),
    (5, layer(192, 320, (9, 9), residual=True, pattern="nm:1:8")),
    (9, layer(64, 64, (20, 20), kernel=3, residual=True)),
    (1, layer(32, 64, (11, 30), kernel=5, stride=3, dilation=2)),
    (16, layer(2048, 1000, (1, 1), relu=False)),
    # More tiles than multiprocessors: buffers are used again and again.
    (16, layer(64, 256, (56, 56), relu=False)),
    (16, layer(64, 256, (56, 56), pattern="nm:1:4", residual=True)),
    (40, layer(64, 64, (33, 35), kernel=3)),
    (21, layer(64, 128, (56, 56), kernel=3, residual=True)),
    (2, layer(48, 64, (5, 63), kernel=3, pattern="nm:1:8", relu=False)),
]


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Memory from torch.empty holds NaN, so that an element nobody writes is noticed."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.gpu
@hopper
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize(
    ("batch", "conv"),
    AWKWARD,
    ids=lambda v: v if isinstance(v, int) else "x".join(map(str, v.weight.shape)),
)
def test_every_tile_on_awkward_shapes(poisoned: None, batch: int, conv: Conv, dtype: str) -> None:
    x = torch.randn(batch, *conv.input_size).relu()
    residual = torch.randn(batch, *conv.output_size) if conv.residual else None
    expected = reference.convolution(conv, x, residual)
    one = torch.ones((), device="cuda")
    for sparse in (True, False):
        kind = kind_of(dtype, sparse)
        made = Layer(conv, kind, "cuda", (64.0, 8.0, 32.0) if kind.planes == 2 else (1, 1, 1))
        gains = [one * s for s in ((64, 8, 32) if kind.planes == 2 else (1, 1, 1))]
        packed = launch.pack(x.cuda(), kind, gains[0])
        added = None if residual is None else launch.pack(residual.cuda(), kind, gains[1])
        for name, tile in made.tiles.items():
            results = [made.run_with(tile, packed, added) for _ in range(2)]
            out = launch.unpack(results[0], len(conv.bias), kind, gains[2], torch.float32)
            error = reference.relative_error(out, expected)
            assert error < TOLERANCE[dtype], f"{name}, sparse {sparse}: {error:.1e}"
            assert torch.equal(results[0], results[1]), f"{name}: not the same twice"


@pytest.mark.gpu
@hopper
@pytest.mark.parametrize("dtype", ["fp32", "tf32", "fp16", "bf16"])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("size", "pattern"), [(1e-3, "cs:2"), (1.0, "nm:2:4"), (1e4, "cs:4:16")])
def test_lowered_layer(dtype: str, memory: torch.memory_format, size: float, pattern: str) -> None:
    conv = layer(64, 96, (10, 9), kernel=3, pattern=pattern, residual=True)
    if dtype in ("fp16", "bf16") and size > 1:
        pytest.skip("beyond the precision's own range")
    lowered = gpu_cs_throughput.lower(conv, case(dtype, 4))
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(dtype, torch.float32)
    x = (torch.randn(4, *conv.input_size) * size).to(kind)
    residual = (torch.randn(4, *conv.output_size) * size).to(kind)
    arguments = [t.cuda().contiguous(memory_format=memory) for t in (x, residual)]
    out = lowered(*arguments)
    assert out.dtype == kind
    expected = reference.convolution(conv, x, residual)
    assert reference.relative_error(out, expected) < TOLERANCE[dtype]


FIRST = [
    (3, 3, 64, (45, 61), 7, 2, True),
    (2, 4, 80, (38, 130), 5, 2, True),
    (70, 3, 64, (64, 96), 7, 2, True),
    (3, 3, 64, (45, 61), 7, 2, False),
    (2, 3, 64, (50, 33), 3, 1, False),
    (40, 2, 32, (66, 70), 3, 2, False),
]


@pytest.mark.gpu
@hopper
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize(("batch", "cin", "cout", "size", "kernel", "stride", "pool"), FIRST)
def test_first_layers(
    poisoned: None, batch: int, cin: int, cout: int, size: tuple[int, int], kernel: int,
    stride: int, pool: bool, dtype: str,
) -> None:  # fmt: skip
    conv = layer(cin, cout, size, kernel, stride, "cs:1")
    x = torch.randn(batch, *conv.input_size)
    expected = reference.convolution(conv, x)
    if pool:
        expected = torch.nn.functional.max_pool2d(expected, 3, 2, 1)
    kind = kind_of(dtype, sparse=False)
    gain, scale = (64.0, 16.0) if kind.planes == 2 else (1.0, 1.0)
    stem = Stem(conv, kind, "cuda", gain, scale, pool)
    for memory in (torch.contiguous_format, torch.channels_last):
        packed = stem.run(x.cuda().contiguous(memory_format=memory))
        again = stem.run(x.cuda().contiguous(memory_format=memory))
        one = torch.tensor(scale, device="cuda")
        out = launch.unpack(packed, cout, kind, one, torch.float32)
        assert reference.relative_error(out, expected) < TOLERANCE[dtype]
        assert torch.equal(packed, again)


@pytest.mark.gpu
@hopper
def test_overflow_is_never_silent() -> None:
    """Beyond the calibrated range numbers become infinite or NaN, through ReLU and later layers."""
    conv = layer(64, 64, (8, 8))
    made = Layer(conv, kind_of("fp32", sparse=True), "cuda", (1.0, 1.0, 1.0))
    one = torch.ones((), device="cuda")
    packed = launch.pack(torch.full((2, 64, 8, 8), 1e5, device="cuda"), made.kind, one)
    out = launch.unpack(made.run(packed), 64, made.kind, one, torch.float32)
    assert not torch.isfinite(out).any()


def sparse_program(pattern: str) -> Program:
    model = build("resnet18", seed=3, num_classes=10)
    calibrate(model, (3, 64, 64))
    state, plan = sparsify_state(model.state_dict(), parse(pattern))
    model.load_state_dict(state)
    carried = {name: spec for name, spec in plan.items() if isinstance(spec, PatternSpec)}
    return attach(trace(model, (3, 64, 64), "resnet18"), carried)


@pytest.mark.gpu
@hopper
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("pattern", ["cs:2", "cs:16", "cs:4:32", "nm:2:4"])
def test_whole_network(dtype: str, pattern: str) -> None:
    program = sparse_program(pattern)
    network = gpu_cs_throughput.lower_network(program, case(dtype, 5))
    assert network is not None
    assert {report.name for report in network.layers} == {c.name for c in program.convolutions}
    assert [r.name for r in network.layers if r.ran == "dense"] == ["conv1", "fc"]
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(dtype, torch.float32)
    x = torch.randn(5, 3, 64, 64).to(kind)
    error = reference.relative_error(network(x.cuda()), reference.run(program, x))
    assert error < {"fp32": 1e-5, "fp16": 1e-2, "bf16": 4e-2}[dtype]


@pytest.mark.gpu
@hopper
def test_dense_on_purpose() -> None:
    program = sparse_program("cs:4")
    network = gpu_cs_throughput.lower_network(program, case("fp32", 2), sparse=False)
    assert network is not None
    assert {report.ran for report in network.layers} == {"dense"}
    x = torch.randn(2, 3, 64, 64)
    assert reference.relative_error(network(x.cuda()), reference.run(program, x)) < 1e-5

"""The csr kernels on a GPU against float64: alone, lowered, captured, and in a network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from csbench.backends.base import TORCH_DTYPE
from csbench.backends.conformance.network import INPUT, small_program
from csbench.backends.csr import gpu as gpu_csr
from csbench.backends.csr import network
from csbench.backends.csr.cusparse import CuSparse
from csbench.backends.csr.layer import CsrLayer, shape_of, word_of
from csbench.core.pattern import parse
from csbench.core.tolerance import tolerance
from csbench.graph import reference
from csbench.graph.program import Conv
from csbench.kernels.csr import launch
from csbench.kernels.csr.columns import WIDTHS, Weight
from csbench.kernels.csr.direct import Cut, Direct
from csbench.kernels.csr.space import Space
from csbench.kernels.csr.staged import Staged, Tile
from tests.backends.csr.layers import AWKWARD, TOLERANCE, by_cusparse, case, error, inputs, layer
from tests.gpu.shapes import poisoned_memory
from tests.kernels.compiled import ARCHITECTURES, compiled, needs_nvcc

DTYPES = tuple(TOLERANCE)
# As many sums as a thread can hold, in every form that a search times.
LARGEST = {
    "csr/staged.cu": [
        ("-DKIND=0", "-DROWS=4", "-DGROUPS=1", "-DPIXELS=16", "-DWARPS=8", "-DCOPY=1"),
        ("-DKIND=0", "-DROWS=2", "-DGROUPS=4", "-DPIXELS=8", "-DWARPS=16", "-DCOPY=4"),
        ("-DKIND=0", "-DROWS=1", "-DGROUPS=8", "-DPIXELS=8", "-DWARPS=8", "-DCOPY=1"),
        ("-DKIND=1", "-DROWS=4", "-DGROUPS=1", "-DPIXELS=8", "-DWARPS=8", "-DCOPY=4"),
        ("-DKIND=2", "-DROWS=1", "-DGROUPS=8", "-DPIXELS=4", "-DWARPS=16", "-DCOPY=1"),
    ],
    "csr/direct.cu": [
        ("-DKIND=0", "-DROWS=4", "-DPIXELS=4", "-DPADDED=1"),
        ("-DKIND=1", "-DROWS=4", "-DPIXELS=4", "-DPADDED=1"),
    ],
}


def variants(conv: Conv, dtype: str, batch: int) -> list[launch.Variant]:
    """Every width on both kernels, sums in one part and in several."""
    given = case(dtype, batch, "cuda")
    weight, shape = (
        Weight(conv.weight.to("cuda", TORCH_DTYPE[dtype]).float()),
        shape_of(conv, given),
    )
    made: list[launch.Variant] = []
    for v in WIDTHS:
        made.append(Staged(weight, Space.of(shape), Tile(v, 2, 3, 4)))
        made.append(Direct(weight, shape, Cut(v, 2, 4 if v == 2 else 1)))
    return made


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", AWKWARD)
def test_every_width_equals_the_reference(shape: str, dtype: str) -> None:
    conv = layer(**AWKWARD[shape])
    for batch in (1, 5):
        made = variants(conv, dtype, batch)
        launch.compile_all(made, word_of(case(dtype, batch)))
        for variant in made:
            assert error(variant, conv, case(dtype, batch, "cuda")) < TOLERANCE[dtype], str(variant)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize(
    ("conv", "batch"),
    [
        (layer(256, 256, (3, 3), (14, 14), density=0.1), 32),
        (layer(64, 256, (1, 1), (28, 28), density=0.1, residual=True), 32),
        (layer(512, 512, (3, 3), (7, 7), density=0.06), 1),
        (layer(512, 512, (3, 3), (7, 7), density=0.06), 2),
    ],
    ids=["3x3", "1x1", "one image", "two images"],
)
def test_every_timed_variant_equals_the_reference(conv: Conv, batch: int, dtype: str) -> None:
    """More blocks than multiprocessors, several chunks, and the sizes that a search times."""
    given = case(dtype, batch, "cuda")
    made = [v for v in CsrLayer(conv, given).variants.values() if not isinstance(v, CuSparse)]
    assert len(made) > 2
    launch.compile_all(made, word_of(given))
    for variant in made:
        assert error(variant, conv, given) < 2 * TOLERANCE[dtype], str(variant)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "batch"), [("fp32", 1), ("fp32", 3), ("fp16", 1), ("bf16", 1)])
@pytest.mark.parametrize("residual", [False, True])
def test_cusparse_equals_the_reference(residual: bool, dtype: str, batch: int) -> None:
    for stride in (1, 2):
        conv = layer(48, 40, (1, 1), (9, 7), stride=(stride, stride), residual=residual)
        _, got, expected = by_cusparse(conv, case(dtype, batch, "cuda"))
        assert reference.relative_error(got, expected) < TOLERANCE[dtype]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_lowered_layer_takes_any_memory_format_and_can_be_captured(dtype: str) -> None:
    conv, given = layer(64, 64, (3, 3), (14, 14), residual=True), case(dtype, 3, "cuda")
    lowered = gpu_csr.lower(conv, given)
    x, residual = inputs(conv, given)
    with poisoned_memory():
        eager = lowered(x.contiguous(memory_format=torch.channels_last), residual)
    before = reference.convolution(conv, x, residual)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = lowered(x, residual)
    x.copy_(torch.randn_like(x))
    graph.replay()
    expected = reference.convolution(conv, x, residual)
    assert reference.relative_error(eager, before) < TOLERANCE[dtype]
    assert reference.relative_error(captured, expected) < TOLERANCE[dtype]
    assert reference.relative_error(eager, expected) > 0.1
    kept = int(conv.weight.count_nonzero())
    assert 8 * kept <= lowered.weight_bytes <= 24 * kept


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_small_network_equals_the_reference(dtype: str, batch: int) -> None:
    program = small_program(parse("unstructured"), seed=1)
    lowered = network.lower_network(program, case(dtype, batch, "cuda"))
    x = torch.randn(batch, *INPUT, device="cuda").to(TORCH_DTYPE[dtype])
    with poisoned_memory():
        out = lowered(x)
    # csr's own layers are fp32-accurate in tf32 too; the dense stem and classifier are not.
    allowed = tolerance(dtype) if dtype == "tf32" else 4 * TOLERANCE[dtype]
    assert reference.relative_error(out, reference.run(program, x)) < allowed
    assert sum(a.ran == "sparse" for a in lowered.layers) == len(lowered.layers) - 2


@pytest.mark.parametrize(
    ("conv", "batch", "reason"),
    [
        (layer(8, 8, (3, 3), (8, 8), groups=2), 1, "2 groups"),
        (layer(64, 64, (1, 1), (32, 32)), 1 << 15, "at batch 32768"),
    ],
)
def test_why_not_names_the_limit(conv: Conv, batch: int, reason: str) -> None:
    assert reason in (gpu_csr.why_not(conv, case(batch=batch)) or "")
    assert gpu_csr.why_not(layer(3, 8, (7, 7), (19, 17)), case()) is None


@needs_nvcc
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(
    ("file", "options"), [(file, options) for file in LARGEST for options in LARGEST[file]]
)
def test_kernels_compile_without_spills(
    file: str, options: tuple[str, ...], arch: str, tmp_path: Path
) -> None:
    found = compiled(file, options, arch, tmp_path)
    assert found.spilled == 0, found.log

"""What the backends of vectors take, refuse and say without a GPU; plans that fit their device."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from csbench.backends import registry
from csbench.backends.vector import gpu
from csbench.backends.vector.layer import why_not_at_all
from csbench.core.case import Case
from csbench.core.pattern import parse
from csbench.errors import BackendError
from csbench.graph.program import output_hw
from csbench.kernels.gather.candidates import Load, candidates
from csbench.kernels.gather.geometry import Shape, geometry
from csbench.kernels.gather.layout import Unfolding
from csbench.kernels.gather.tile import Kind, Packing, Plan, Tile, check_registers, options
from tests.backends.vector.shapes import layer, units_of
from tests.kernels.compiled import HOPPER, compiled, needs_nvcc

KINDS = [Kind(1), Kind(2), Kind(1, bf16=True)]


def case(pattern: str) -> Case:
    return Case(
        task="layer", model="m", pattern=pattern, sparsity=0.5, backend=pattern, baseline="cudnn",
        device="cuda", dtype="fp32", batch=4,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "pattern"), [("ovw", "ovw"), ("shfl-bw", "shfl-bw"), ("block-vectors", "block")]
)
def test_a_backend_runs_its_pattern_on_a_gpu_only(name: str, pattern: str) -> None:
    backend = registry.get(name)
    assert backend.patterns == {pattern}
    assert backend.devices == {"cuda"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line() -> None:
    missing = registry.get("ovw").missing("cuda")
    assert missing is not None
    assert "Hopper" in missing
    assert "\n" not in missing


def test_refusals_name_what_was_given() -> None:
    assert "32 groups" in str(why_not_at_all(layer(32, 32, (8, 8), kernel=3, groups=32), 1))
    assert "strides to 8" in str(why_not_at_all(layer(8, 8, (40, 40), stride=9), 1))
    assert "batch 9000" in str(why_not_at_all(layer(512, 512, (56, 56)), 9000))
    assert why_not_at_all(layer(512, 512, (56, 56), kernel=3), 256) is None


def test_weights_must_keep_the_pattern_they_carry() -> None:
    weight, _ = units_of(torch.randn(64, 64, 1, 1), "ovw:32@50%")
    conv = dataclasses.replace(layer(64, 64, (4, 4)), weight=weight, pattern=parse("ovw:32@50%"))
    assert gpu.why_not(conv, case("ovw")) is None
    broken = dataclasses.replace(conv, weight=torch.randn(64, 64, 1, 1))
    assert "ovw:32" in str(gpu.why_not(broken, case("ovw")))


def most_records(packing: Packing) -> int:
    """Of a unit in a stage: a box has 64 channels, a window 16."""
    return 6 if packing.shared else 4 * packing.boxes


LOADS = [
    Load(units, unit, blocks, boxes, density, residual, images, most_records)
    for units, unit in ((1, 8), (5, 16), (8, 32), (64, 32))
    for blocks in (1, 49, 3136)
    for boxes, density in ((1, 1.0), (36, 0.25), (288, 0.0625))
    for residual in (False, True)
    for images in (False, True)
] + [
    Load(units, unit, 3136, 36, 0.25, residual, True, most_records, pixels, 784)
    for units, unit in ((1, 8), (5, 16), (2, 32), (64, 32))
    for residual in (False, True)
    for pixels in (6, 16)
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_layer_has_plans_that_fit(kind: Kind) -> None:
    for load in LOADS:
        plans = candidates(kind, load, 132)
        assert plans
        for plan in plans.values():
            tile = plan.tile
            assert (plan.shared(kind) + 1024) * tile.blocks <= 233472
            assert tile.copied * kind.planes * plan.boxes <= 32
            assert plan.slots >= 2
            # Parity tells two turns of a barrier apart only where each part has its own slots.
            assert plan.slots % tile.parts == 0
            assert tile.threads * tile.blocks <= 1024


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_plans_that_differ_have_names_that_differ(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Choices are remembered by name."""
    named: list[tuple[str, Plan]] = []

    def name(plan: Plan) -> str:
        named.append((plain(plan), plan))
        return named[-1][0]

    plain = Plan.__str__
    monkeypatch.setattr(Plan, "__str__", name)
    for load in LOADS:
        named.clear()
        candidates(kind, load, 132)
        assert len({name for name, _ in named}) == len({plan for _, plan in named})


@pytest.mark.parametrize("kernel", [(2, 2), (1, 3), (3, 1), (3, 3), (1, 7)])
@pytest.mark.parametrize("images", [48, 100])
def test_windows_reach_every_tap_of_their_four_pixels(images: int, kernel: tuple[int, int]) -> None:
    size, padding = (5, 9), (kernel[0] // 2, kernel[1] // 2)
    out = output_hw(size, kernel, (1, 1), padding, (1, 1))
    shape = Shape(images, 70, 40, size, out, kernel, (1, 1), padding, (1, 1))
    plain = geometry(shape)
    assert shape.window is not None
    shared = plain.windowed(shape.window)
    read = [(x + j, y + i) for _, _, x, y in plain.taps for i in (0, 1) for j in (0, 1)]
    assert set(read) == {(x, y) for *_, x, y in shared.taps}
    assert len(set(shared.taps)) == len(shared.taps)
    assert shared.blocks == (1, -(-images // 64), -(-out[1] // 2), -(-out[0] // 2))


def test_windows_are_shared_by_plain_layers_only() -> None:
    same = Shape(64, 8, 8, (9, 9), (9, 9), (3, 3), (1, 1), (1, 1), (1, 1))
    assert same.window == (4, 4)
    for other in (
        {"images": 47}, {"kernel": (5, 5)}, {"kernel": (1, 1)}, {"stride": (1, 2)},
        {"dilation": (2, 1)},
    ):  # fmt: skip
        assert same._replace(**other).window is None


def test_what_is_read_far_aside_is_not_left_by_the_layer_before() -> None:
    near = Unfolding(9, taps=3, stride=1, padding=1, dilation=1)
    assert near.is_near(9)
    assert near._replace(out_width=5, stride=2).is_near(9)
    for far in (
        {"padding": 0}, {"padding": 2}, {"taps": 4}, {"dilation": 2}, {"out_width": 8},
        {"out_width": 3, "stride": 3},
    ):  # fmt: skip
        assert not near._replace(**far).is_near(9)


@pytest.mark.parametrize("images", [1, 7, 8, 47, 48, 64, 200])
def test_columns_cover_the_output_once(images: int) -> None:
    pairs = ((3, 3), (2, 1), (1, 1), (1, 1))
    g = geometry(Shape(images, 70, 40, (9, 11), (5, 11), *pairs))
    assert g.swizzled == (g.box == (64, 1, 1, 1))
    assert all(b * n >= s for b, n, s in zip(g.box, g.blocks, g.size, strict=True))
    places = {
        sum(i * s for i, s in zip(index, g.out_stride, strict=True))
        for index in torch.cartesian_prod(*(torch.arange(s) for s in g.size)).tolist()
    }
    assert len(places) == g.size[0] * g.size[1] * g.size[2] * g.size[3]
    assert len(g.taps) == 9


SPILL_LIMIT = 64  # bytes, outside of the main loop
LARGE = Load(8, 32, 3136, 36, 0.5, False, True, most_records, 16, 784)
SMALL = [Load(8, 32, blocks, 36, 0.25, True, False, most_records) for blocks in (4, 100)]


def tiles(kind: Kind, load: Load) -> list[Tile]:
    return sorted({plan.tile for plan in candidates(kind, load, 132).values()})


TILES = [(kind, tile, True, False) for kind in KINDS[:2] for tile in tiles(kind, LARGE)[::4]]
TILES += [  # whose results are unfolded for the next layer
    (kind, tile, number % 2 == 1, True)
    for kind in KINDS[:2]
    for load in SMALL
    for number, tile in enumerate(tiles(kind, load)[::3])
]


@needs_nvcc
@pytest.mark.parametrize(("kind", "tile", "swizzled", "unfold"), TILES, ids=str)
def test_kernels_compile_without_spills(
    kind: Kind, tile: Tile, swizzled: bool, unfold: bool, tmp_path: Path
) -> None:
    found = compiled("gather/conv.cu", options(kind, tile, swizzled, unfold), HOPPER, tmp_path)
    assert found.spilled <= SPILL_LIMIT, found.log


TOGETHER = [tile for tile in tiles(KINDS[0], LARGE) if tile.copying]


@needs_nvcc
@pytest.mark.parametrize("kind", [KINDS[0], KINDS[2]], ids=str)
@pytest.mark.parametrize("tile", TOGETHER, ids=str)
def test_registers_that_are_dealt_anew_are_there(kind: Kind, tile: Tile, tmp_path: Path) -> None:
    """More than a block had at its launch would be waited for without end (kOfOthers)."""
    log = compiled("gather/conv.cu", options(kind, tile, True, False), HOPPER, tmp_path).log
    (used,) = re.findall(r"Used (\d+) registers", log)
    assert int(used) == 65536 // tile.blocks // tile.threads // 8 * 8
    # ptxas says so where it makes products wait for each other, or deals no registers.
    assert "wgmma" not in log
    assert "setmaxnreg" not in log


def test_other_registers_than_are_dealt_anew_are_refused() -> None:
    """The kernel would wait for them without end."""

    class Made:
        def __init__(self, registers: int) -> None:
            self.attribute = {4: registers}.__getitem__

    tile = Tile(32, 4, 4, 4, 1, False, 0, 1, 0, together=True, copying=True)
    check_registers(Made(96), tile)
    with pytest.raises(BackendError, match="gave 104 registers to a thread, not 96"):
        check_registers(Made(104), tile)


@needs_nvcc
@pytest.mark.parametrize("file", ["gather/io.cu", "gather/window.cu"])
def test_other_kernels_compile(file: str, tmp_path: Path) -> None:
    for planes, bf16 in ((1, 1), (2, 0)):
        chosen = [f"-DCS_BF16={bf16}", f"-DGATHER_PLANES={planes}", "-DGATHER_PLAIN=1",
                  "-DGATHER_VECTOR=8"]  # fmt: skip
        assert compiled(file, chosen, HOPPER, tmp_path).spilled == 0

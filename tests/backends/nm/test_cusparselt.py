"""What cuSPARSELt is given computes the convolution, and what it cannot take is refused."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from ctypes import c_void_p
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from csbench.backends.nm import cusparselt, cusparselt_layer, cusparselt_search
from csbench.backends.nm.cusparselt import NmCusparselt
from csbench.backends.nm.cusparselt_layer import Choice, Layer
from csbench.backends.nm.cusparselt_layer import parse as parse_choice
from csbench.backends.nm.cusparselt_search import choose
from csbench.backends.nm.cusparselt_ways import Way, matrices, ways
from csbench.core.pattern import parse
from csbench.errors import BackendError
from csbench.graph import reference
from csbench.graph.program import Activation, Conv
from csbench.kernels import search
from csbench.kernels.cusparselt import library, product, windows
from csbench.kernels.cusparselt.product import Algorithm, Epilogue, Problem
from csbench.kernels.cusparselt.trial import Trials, Tried
from csbench.kernels.cusparselt.windows import Windows
from csbench.sparse.patterns import for_spec
from tests.backends.cases import case, conv
from tests.kernels.compiled import ARCHITECTURES, compiled, needs_nvcc


def layer(
    kernel: int, size: tuple[int, int], *, stride: int = 1, padding: int | None = None,
    dilation: int = 1, residual: bool = False, pattern: str = "nm:2:4",
) -> Conv:  # fmt: skip
    spec = parse(pattern)
    pad = kernel // 2 * dilation if padding is None else padding
    weight = torch.randn(48, 32, kernel, kernel) / (4 * kernel)
    out = [(s + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1 for s in size]
    return conv(
        weight=weight * for_spec(spec).mask(weight), bias=torch.randn(48), pattern=spec,
        kernel=kernel, stride=(stride,) * 2, padding=(pad,) * 2, dilation=(dilation,) * 2,
        residual=residual, input_size=(32, *size), output_size=(48, *out),
    )  # fmt: skip


def side_by_side(x: Tensor, w: Windows) -> Tensor:
    """What windows.cu does, pixel by pixel: NHWC to [rows, taps * channels]."""
    images, height, width, channels = x.shape
    out = torch.zeros(w.rows, *w.taps, channels, dtype=x.dtype)
    for row in range(images * w.size[0] * w.size[1]):
        image, within = divmod(row, w.size[0] * w.size[1])
        y, x_ = divmod(within, w.size[1])
        for r in range(w.taps[0]):
            for s in range(w.taps[1]):
                at_y = y * w.stride[0] - w.padding[0] + r * w.dilation[0]
                at_x = x_ * w.stride[1] - w.padding[1] + s * w.dilation[1]
                if 0 <= at_y < height and 0 <= at_x < width:
                    out[row, r, s] = x[image, at_y, at_x]
    return out.flatten(1)


class Exact:
    """A plan whose product is torch's, read from memory as the library reads it."""

    def __init__(self, problem: Problem, device: int, epilogue: Epilogue | None = None) -> None:
        self.problem, self.epilogue = problem, epilogue or Epilogue()

    algorithms, cuts = 2, False

    def workspace_bytes(self, algorithm: Algorithm) -> int:
        return 0

    def run(
        self, algorithm: Algorithm, weights: Tensor, x: Tensor, out: Tensor,
        added: Tensor | None = None,
    ) -> None:  # fmt: skip
        p, sums = self.problem, torch.zeros_like(out) if added is None else added.clone()
        assert weights.shape == (p.rows, p.inner)
        sums = sums.view(-1)[: p.images * p.pixels * p.rows].view(p.images, p.pixels, p.rows)
        for image in range(p.images):
            matrix = x.view(-1)[image * p.step :][: p.pixels * p.inner].view(p.pixels, p.inner)
            sums[image] += matrix @ weights.T
        if self.epilogue.bias is not None:
            sums += self.epilogue.bias
        if self.epilogue.activation != "none":
            sums.clamp_(0, 6 if self.epilogue.activation == "relu6" else None)
        out.copy_(sums.view(out.shape))


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Layers run on a CPU."""
    cusparselt_layer._plan_of.cache_clear()
    monkeypatch.setattr(cusparselt_layer, "Plan", Exact)
    monkeypatch.setattr(cusparselt_layer, "compress", lambda matrix: matrix)
    monkeypatch.setattr(cusparselt_layer, "side_by_side", side_by_side)
    yield
    cusparselt_layer._plan_of.cache_clear()


class InPlace(Trials):
    """Tries in this process; the second of two algorithms is the fastest, `fatal` ones crash."""

    def __init__(self, fatal: Sequence[str] = ()) -> None:
        self.fatal, self.asked, self.ended = fatal, 0, 0

    def end(self) -> None:
        self.ended += 1

    def tried(self, request: object, skip: Iterable[str] = ()) -> Tried:
        self.asked += 1
        runs = cusparselt_search._candidates(json.loads(json.dumps(request)))
        times = {}
        for name in sorted(runs.keys() - {*skip, *self.fatal}):
            out = runs[name]()
            assert isinstance(out, Tensor) and out.isfinite().all()
            times[name] = 2.0 if name.endswith("0") else 0.001 * len(name)
        crashed = [name for name in runs if name in self.fatal and name not in skip]
        return Tried(times, crashed, "they crash" if crashed else "")


@pytest.fixture
def remembered(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """A search without a GPU, and what it remembers."""
    kept: dict[str, object] = {}

    def recall(key: object, compute: Callable[[], object]) -> object:
        return kept[repr(key)] if repr(key) in kept else kept.setdefault(repr(key), compute())

    monkeypatch.setattr(search, "remembered", recall)
    monkeypatch.setattr(library, "version", lambda device: 0)
    for name in ("set_device", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, lambda *device: None)
    real = cusparselt_search._wanted

    def on_a_cpu(made: Layer, way: Way) -> object:
        request: Any = real(made, way)
        assert request["case"]["device"] == "cuda:0"
        request["case"]["device"] = "cpu"
        return request

    monkeypatch.setattr(cusparselt_search, "_wanted", on_a_cpu)
    return kept


LAYERS = {
    "1x1": (layer(1, (4, 4)), {"direct"}),
    "1x1 of 9 pixels": (layer(1, (3, 3)), {"explicit"}),
    "1x1 with stride": (layer(1, (5, 7), stride=2), {"explicit"}),
    "1x1 padded": (layer(1, (2, 2), padding=1), {"explicit"}),
    "3x3": (layer(3, (4, 6)), {"explicit", "by rows"}),
    "3x3 of 49 pixels": (layer(3, (7, 7)), {"explicit"}),
    "3x3 with stride": (layer(3, (8, 8), stride=2), {"explicit"}),
    "3x3 dilated": (layer(3, (8, 5), dilation=2), {"explicit", "by rows"}),
    "3x3 unpadded": (layer(3, (6, 4), padding=0), {"explicit", "by rows"}),
    "5x5": (layer(5, (8, 8)), {"explicit", "by rows"}),
}


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("activation", ["none", "relu", "relu6"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_every_way_is_the_convolution(name: str, residual: bool, activation: Activation) -> None:
    plain, expected_ways = LAYERS[name]
    conv = dataclasses.replace(plain, residual=residual, activation=activation)
    made = Layer(conv, case(dtype="tf32", batch=2))
    assert set(made.ways) == expected_ways
    sizes = [conv.input_size, *([conv.output_size] if residual else [])]
    inputs = [torch.randn(2, *size) for size in sizes]
    expected = reference.convolution(conv, *inputs)
    for choice in itertools.chain(*map(made.choices, made.ways)):
        got = made.run_with(choice, *(x.clone() for x in inputs))
        assert reference.relative_error(got, expected) < 1e-6, str(choice)


@pytest.mark.usefixtures("exact", "remembered")
@pytest.mark.parametrize("residual", [False, True])
def test_the_fastest_is_kept_and_all_are_told(residual: bool) -> None:
    conv = dataclasses.replace(LAYERS["3x3"][0], residual=residual)
    made = Layer(conv, case(dtype="tf32", batch=2))
    choose(made, InPlace())
    assert str(made.chosen) == "by rows 1"
    tried = "tried explicit 0:2000.0us explicit 1:10.0us by rows 0:2000.0us by rows 1:9.0us"
    assert made.label == f"cuSPARSELt by rows 1; {tried}"
    assert list(made.weights) == ["by rows"]
    assert made.bytes == 4 * (48 * 32 * 9 + 48)
    assert made.workspace_bytes == 4 * 2 * (4 + 2) * 6 * 3 * 32  # 3 taps for each padded pixel


@pytest.mark.usefixtures("exact")
def test_what_crashes_is_told_and_not_tried_on_other_layers(remembered: dict[str, object]) -> None:
    fatal = ["explicit 1", "by rows 0"]
    trials = InPlace(fatal)
    elsewhere = "crashed on another layer or way, not tried"
    for name, told in (("3x3", "crashed"), ("3x3 dilated", elsewhere)):
        made = Layer(LAYERS[name][0], case(dtype="tf32", batch=2))
        choose(made, trials)
        assert made.crashed == (fatal if name == "3x3" else [])
        assert made.label.endswith(f"by rows 1:9.0us; {told} explicit 1, by rows 0")
    assert trials.asked == 4 + 2  # of each way what crashes, then for each layer
    choose(Layer(LAYERS["3x3"][0], case(dtype="tf32", batch=2)), trials)
    assert trials.asked == 4 + 2
    assert len(remembered) == 2 + 2
    for key in [key for key in remembered if "crashes" not in key]:
        del remembered[key]  # what crashed where is still known
    again = Layer(LAYERS["3x3"][0], case(dtype="tf32", batch=2))
    choose(again, trials)
    assert (again.crashed, again.untried) == (fatal, [])


@pytest.mark.usefixtures("exact", "remembered")
def test_what_crashed_in_one_way_is_not_said_to_have_crashed_in_another() -> None:
    made = Layer(LAYERS["3x3"][0], case(dtype="tf32", batch=1))  # neither way is batched
    choose(made, InPlace(["explicit 0", "by rows 0"]))
    assert (made.crashed, made.untried) == (["explicit 0"], ["by rows 0"])


@pytest.mark.usefixtures("exact")
def test_copies_of_a_layer_share_plans_and_other_layers_do_not() -> None:
    conv = LAYERS["3x3"][0]
    other = dataclasses.replace(conv, bias=conv.bias + 1)
    copies = [Layer(c, case(dtype="tf32", batch=2)) for c in (conv, conv, other)]
    one, copy, different = (layer._plan("by rows") for layer in copies)
    assert one.last is copy.last is not different.last
    assert one.first is copy.first is different.first


@pytest.mark.usefixtures("exact", "remembered")
def test_a_layer_of_which_nothing_runs_says_why() -> None:
    made = Layer(LAYERS["1x1"][0], case(dtype="tf32", batch=2))
    with pytest.raises(BackendError, match=r"cuSPARSELt refuses .* on 4x4: 2 algorithms crash"):
        choose(made, InPlace(["direct 0", "direct 1"]))


@pytest.mark.usefixtures("exact", "remembered")
def test_a_way_that_the_library_refuses_leaves_the_others() -> None:
    class Refusing(InPlace):
        def tried(self, request: Any, skip: Iterable[str] = ()) -> Tried:
            if request["way"] in self.fatal:
                raise BackendError("no batches")
            return super().tried(request, skip)

    def layer_of(refused: Sequence[str]) -> Layer:
        made = Layer(LAYERS["3x3"][0], case(dtype="tf32", batch=2))
        choose(made, Refusing(refused))
        return made

    with pytest.raises(BackendError, match=r"cuSPARSELt refuses .*: no batches"):
        layer_of(["by rows", "explicit"])
    assert str(layer_of(["by rows"]).chosen) == "explicit 1"


@pytest.mark.parametrize(
    "choice", [Choice("by rows", Algorithm(12, 4)), Choice("direct", Algorithm(3))]
)
def test_choices_are_read_back(choice: Choice) -> None:
    assert parse_choice(str(choice)) == choice


class Library:
    """Notes what the library is asked for; its workspace is ten bytes an algorithm."""

    def __init__(self) -> None:
        self.algorithm = 0
        self.made: list[int] = []
        self.products: list[int] = []
        self.plans: dict[int, int] = {}  # by the address of a plan, what it is for

    def call(self, name: str, *arguments: Any) -> None:
        if name == "MatmulPlanInit":
            self.made.append(self.algorithm)
            self.plans[id(arguments[1])] = self.algorithm
        if name == "MatmulGetWorkspace":
            arguments[2]._obj.value = 10 * self.algorithm
        if name == "Matmul":
            assert self.algorithm == self.plans[id(arguments[1])]
            self.products.append(self.plans[id(arguments[1])])

    def set_attribute(
        self, device: int, kind: str, target: Any, attribute: int, value: Any
    ) -> None:
        if kind == "MatmulAlg" and attribute == product._SPLIT_K:
            raise RuntimeError("invalid value")
        if kind == "MatmulAlg":
            self.algorithm = value.value


def test_a_plan_is_made_for_each_algorithm_after_it_was_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = Library()
    for name in ("call", "set_attribute"):
        monkeypatch.setattr(product, name, getattr(fake, name))
    monkeypatch.setattr(product, "handle", lambda device: None)
    monkeypatch.setattr(product, "stream", lambda device: c_void_p())
    plan = product.Plan(Problem(16, 16, 8, 1, 0, torch.float16), 0)
    x = torch.zeros(8, 16)
    for number in (3, 3, 5, 3):
        plan.run(Algorithm(number), x, x, x)
        assert plan.workspace_bytes(Algorithm(number)) == 10 * number
    assert fake.made == [3, 5]
    assert fake.products == [3, 3, 5, 3]


def test_matrices_keep_the_pattern_of_the_layer() -> None:
    conv, _ = LAYERS["3x3"]
    for way in ways(conv, 2, torch.float16):
        for matrix in matrices(conv, way):
            assert matrix.dtype == torch.float16
            assert int((matrix.view(len(matrix), -1, 4) != 0).sum(2).max()) <= 2


@pytest.mark.parametrize(
    ("changes", "dtype", "part"),
    [
        ({}, "fp16", None),
        ({"pattern": "cs:2"}, "fp16", None),
        ({"pattern": "cs:2"}, "tf32", None),
        ({"pattern": "nm:1:4"}, "tf32", None),
        ({}, "tf32", "takes 1:2 in tf32; nm:2:4 keeps more of some"),
        ({"pattern": "nm:4:8"}, "bf16", "takes 2:4 in bf16; nm:4:8 keeps more of some"),
    ],
)
def test_what_it_takes(changes: dict[str, str], dtype: str, part: str | None) -> None:
    reason = NmCusparselt().why_not(layer(3, (4, 4), **changes), case(device="cuda", dtype=dtype))
    assert reason is None if part is None else part in str(reason)


def test_odd_channels_and_groups_are_refused() -> None:
    given = case(device="cuda", dtype="fp16")
    assert "multiples of 16 channels" in str(NmCusparselt().why_not(conv(), given))
    grouped = conv(weight=torch.randn(32, 16, 3, 3), groups=2, input_size=(32, 4, 4))
    assert "2 groups" in str(NmCusparselt().why_not(grouped, given))


@pytest.mark.skipif(torch.cuda.is_available(), reason="it has a GPU")
def test_without_a_gpu_it_says_so() -> None:
    assert library.missing() == "no CUDA device"


@pytest.mark.usefixtures("exact", "remembered")
def test_no_process_of_the_search_is_left_while_a_layer_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries = InPlace(), InPlace(["direct 0", "direct 1"])
    for trials, works in zip(tries, (True, False), strict=True):
        monkeypatch.setattr(cusparselt, "trials", lambda trials=trials: trials)
        made = partial(NmCusparselt().lower, LAYERS["1x1"][0], case(dtype="tf32", batch=works + 1))
        if works:
            assert made().algorithm.startswith("cuSPARSELt direct 1")
        else:
            with pytest.raises(BackendError):
                made()
        assert trials.asked and trials.ended == 1


@needs_nvcc
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("taps", [(1, 1), (1, 3), (3, 3)])
def test_windows_compile_without_spills(arch: str, taps: tuple[int, int], tmp_path: Path) -> None:
    found = compiled("cusparselt/windows.cu", windows.options(taps), arch, tmp_path)
    assert found.spilled == 0, found.log

"""The dense baseline of a layer by itself: what it holds for the layouts that may come."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from csbench.backends.dense import cudnn
from csbench.graph.program import Program, Step
from csbench.kernels import search
from tests.backends.cases import case, conv


class FakeLayer:
    """A layer that is made and run without a GPU; its result is its label."""

    bytes, label = 4, "made"

    def settled(self) -> FakeLayer:
        return self

    def ready(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x,)

    def run(self, x: Tensor, residual: Tensor | None) -> str:
        return self.label


def test_layouts_that_chose_alike_share_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, str]] = []

    class Layer(FakeLayer):
        def __init__(self, conv: object, case: object, layout: str, name: str) -> None:
            made.append((layout, name))
            self.label = f"{layout} {name}"

    # As the disk gives it back: lists.
    found = {"NCHW": ["NHWC", "fused"], "NHWC": ["NHWC", "fused"], "inside": ["NCHW", "gemm"]}
    monkeypatch.setattr(search, "remembered", lambda key, compute: found)
    monkeypatch.setattr(cudnn, "Layer", Layer)
    lowered = cudnn.Cudnn().lower(conv(), case(device="cuda"))
    assert made == [("NHWC", "fused"), ("NCHW", "gemm")]
    assert lowered.algorithm == "NCHW gemm, NHWC fused"
    assert str(lowered(torch.ones(1, 8, 7, 5))) == "NHWC fused"


def test_one_pixel_lies_alike_in_both_layouts_and_is_chosen_for_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Layer(FakeLayer):
        def __init__(self, conv: object, case: object, layout: str, known: str = "") -> None:
            self.key, self.chosen = (layout,), f"gemm {layout}"
            made.append(f"{layout} {known}")

    def first(runs: dict[str, search.Run], key: tuple[str, ...]) -> str:
        asked.append(key[1])
        return "NHWC" if key[1] in ("inside", "NHWC") else "NCHW"

    made: list[str] = []
    asked: list[str] = []
    monkeypatch.setattr(search, "remembered", lambda key, compute: compute())
    monkeypatch.setattr(search, "fastest", first)
    monkeypatch.setattr(cudnn, "Layer", Layer)
    for kernel, alike in (
        (1, {"input_size": (8, 1, 1)}), (3, {"input_size": (8, 1, 1)}),
    ):  # fmt: skip
        made.clear()
        asked.clear()
        lowered = cudnn.Cudnn().lower(conv(kernel=kernel, **alike), case())
        assert asked == ["inside"]
        assert made == ["NCHW ", "NHWC ", "NHWC gemm NHWC"]
        for memory in (torch.contiguous_format, torch.channels_last):
            x = torch.ones(1, 8, 1, 1).contiguous(memory_format=memory)
            assert str(lowered(x)) == "made"
    for kernel, changes in (
        (1, {}), (1, {"input_size": (8, 1, 5)}), (3, {"input_size": (8, 3, 3), "padding": (0, 0)}),
        (1, {"input_size": (8, 1, 1), "padding": (1, 1)}),
    ):  # fmt: skip
        made.clear()
        asked.clear()
        cudnn.Cudnn().lower(conv(kernel=kernel, **changes), case())
        assert asked == ["inside", "NCHW", "NHWC"]
        assert sorted(made[2:]) == ["NCHW gemm NCHW", "NHWC gemm NHWC"]


def test_plans_are_chosen_in_the_network_before_the_others_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []

    class Network:
        layers: tuple[object, ...] = ()

        def __init__(self, program: object, case: object, layout: str, known: list[str]) -> None:
            done.append(f"{layout} {known}")

        def choose_plans(self, x: Tensor) -> None:
            done.append(f"plans for {list(x.shape)}")

        def settle(self) -> None:
            done.append("settled")

        def run(self, x: Tensor) -> str:
            return "ran"

    found = {"layout": "NHWC", "algorithms": ["fused NHWC"]}
    monkeypatch.setattr(search, "remembered", lambda key, compute: found)
    monkeypatch.setattr(cudnn, "Network", Network)
    program = Program("test", (8, 7, 5), (Step(conv(), (0,), 1, "conv"),), 1)
    lowered = cudnn.Cudnn().lower_network(program, case(batch=2))
    assert done == ["NHWC ['fused NHWC']", "plans for [2, 8, 7, 5]", "settled"]
    assert str(lowered(torch.ones(2, 8, 7, 5))) == "ran"

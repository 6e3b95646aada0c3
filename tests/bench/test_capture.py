"""What is timed of a layer: what its backend's networks do, without the way in and out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from csbench.backends.base import Inside, LoweredConv
from csbench.backends.dense.onednn import OneDnn
from csbench.bench.capture import Replay, tensors_of
from csbench.bench.subject import Subject
from csbench.bench.weights import Library
from csbench.graph import reference
from csbench.graph.program import Conv
from tests.backends.cases import case, conv


@dataclass(frozen=True)
class Turned:
    """A matrix in a layout of its own."""

    data: Tensor
    note: str = ""


def turned(seen: list[str]) -> Inside:
    """Twice x (and a residual), on transposed matrices; writes down what is called."""

    def enter(x: Tensor, residual: Tensor | None = None) -> tuple[Turned | Tensor | None, ...]:
        seen.append("enter")
        return Turned(x.t().contiguous()), residual, torch.tensor(2.0)

    def run(x: Turned, residual: Tensor | None, gain: Tensor) -> Turned:
        seen.append("run")
        y = gain * x.data
        return Turned(y if residual is None else y + residual.t())

    def leave(out: Turned, x: Turned, residual: Tensor | None, gain: Tensor) -> Tensor:
        seen.append("leave")
        return out.data.t()

    return Inside(enter, run, leave)


def test_a_call_between_torch_tensors_goes_all_the_way() -> None:
    x, residual = torch.randn(3, 2), torch.randn(3, 2)
    layer = turned([])
    assert torch.equal(layer(x), 2 * x)
    assert torch.equal(layer(x, residual), 2 * x + residual)


def test_only_the_layer_itself_is_timed() -> None:
    seen: list[str] = []
    layer = turned(seen)
    replay = Replay(layer, [(torch.randn(3, 2),), (torch.randn(3, 2),)], layer)
    assert seen == ["enter", "enter"]
    replay()
    replay()
    assert seen == ["enter", "enter", "run", "run"]


def test_new_inputs_reach_the_memory_that_the_layer_reads() -> None:
    layer = turned([])
    replay = Replay(layer, [(torch.randn(3, 2),)], layer)
    x = torch.randn(3, 2)
    assert torch.equal(replay.fresh((x,)), 2 * x)
    replay.renew((torch.ones(3, 2),))
    (own,) = replay._entered
    assert torch.equal(own[0].data, torch.ones(2, 3))


def test_tensors_are_found_in_tuples_and_dataclasses() -> None:
    a, b = torch.ones(1), torch.zeros(1)
    assert [*tensors_of((a, None, Turned(b, "b"), (a,), 3))] == [a, b, a]


class Outsider:
    """A backend of somebody else, that multiplies on the way in."""

    name = "outsider"
    patterns = frozenset({"dense"})
    devices = frozenset({"cpu"})
    dtypes = frozenset({"fp32"})

    def missing(self, device: str) -> str | None:
        return None

    def why_not(self, layer: Conv, given: object) -> str | None:
        return None

    def lower(self, layer: Conv, given: object) -> Callable[..., Tensor]:
        cheat = Inside(lambda x, residual=None: (x.relu(),), lambda x: x, lambda out, *own: out)
        return LoweredConv(run=cheat, inside=cheat) if self.says else cheat

    says = True  # that it has an inside, or gives it as a mere callable


@pytest.mark.parametrize(("ours", "says"), [(True, True), (False, True), (False, False)])
def test_what_others_bring_is_timed_whole(
    ours: bool, says: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = case(model="resnet20", task="layer", layer="layer1.0.conv1", backend="outsider")
    monkeypatch.setattr(Outsider, "says", says)
    if ours:
        monkeypatch.setattr(Outsider, "__module__", "csbench.backends.outsider")
    subject = Subject(Library().sparse(given), given)
    lowered = subject.lower(Outsider(), Outsider(), given)
    assert (lowered.inside is not None) == ours
    assert ("in the layout" in (lowered.layers[0].note or "")) == ours
    entered = subject.replay(lowered, 0)._entered[0][0]
    assert bool((entered < 0).any()) != ours  # the rectifier of `enter` is not taken out


def test_layers_of_a_cpu_have_a_layout_inside() -> None:
    """The dense baseline too: it enters the layout that is faster for it."""
    layer = conv(residual=True)
    lowered = OneDnn().lower(layer, case(batch=2))
    assert lowered.inside is not None
    x, residual = torch.randn(2, *layer.input_size), torch.randn(2, *layer.output_size)
    out = Replay(lowered, [(x, residual)], lowered.inside).fresh((x, residual))
    assert reference.relative_error(out, reference.convolution(layer, x, residual)) < 1e-5

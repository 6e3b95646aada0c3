"""Plans are chosen in the network: copies of a layer alike, and only what is chosen is held."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from csbench.backends.vector.choice import ALTERNATIVES, Choice
from csbench.backends.vector.layer import Layer, kind_of
from csbench.core.pattern import parse
from csbench.graph.program import Conv
from csbench.kernels import search
from csbench.kernels.gather import io
from tests.backends.vector.shapes import layer, units_of
from tests.kernels.host import host

pytestmark = host.needs_gxx
ONE = torch.ones(())


@pytest.fixture(autouse=True)
def _on_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host.install(monkeypatch, processors=2)
    monkeypatch.setenv("CSBENCH_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(search, "_answers", {})
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(search, "ranking", lambda runs, *_: sorted(runs))


def made(conv: Conv, spec: str = "ovw:32@50%") -> Layer:
    _, units = units_of(conv.weight, spec)
    carrying = dataclasses.replace(conv, pattern=parse(spec))
    return Layer(carrying, units, kind_of("fp16"), 2, "cpu")


def network(choice: Choice, layers: list[Layer]) -> Callable[[], Tensor]:
    calls = [choice.add(one) for one in layers]
    x = io.pack(torch.randn(2, 256, 4, 8), 1, False, ONE)
    return lambda: torch.stack([io.unpack(call(x), ONE, torch.float32) for call in calls])


def test_what_decides_the_time_is_in_the_signature() -> None:
    conv = layer(256, 64, (4, 8))
    assert made(conv).signature == made(layer(256, 64, (4, 8))).signature
    others = [
        made(conv, "ovw:32@75%"), made(conv, "ovw:16@50%"), made(layer(256, 64, (4, 9))),
        made(layer(256, 64, (4, 8), residual=True)), made(layer(256, 64, (4, 8), kernel=3)),
        made(layer(256, 64, (4, 8), activation="relu6")),
        made(layer(256, 64, (4, 8), activation="none")), made(conv, "block:32x32@50%"),
    ]  # fmt: skip
    assert len({made(conv).signature, *(other.signature for other in others)}) == 9


def test_the_network_overrules_what_a_layer_alone_prefers(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [made(layer(256, 64, (4, 8))) for _ in range(2)]
    choice = Choice()
    run = network(choice, layers)
    ((signature, names),) = choice.ranked.items()
    assert names == sorted(layers[0].plans)[:ALTERNATIVES]
    assert len(names) > 1
    outputs: dict[str, Tensor] = {}

    def network_ms(run: search.Run) -> float:
        name = choice.chosen[signature]
        outputs[name] = run()
        return 2.0 - names.index(name) / 10

    monkeypatch.setattr(search, "_network_ms", network_ms)
    choice.settle(run, "net")
    assert sorted(outputs) == sorted(names)  # all were tried, and are right
    for out in outputs.values():
        assert torch.allclose(out, outputs[names[0]], rtol=1e-2, atol=1e-2)
    for one in layers:
        assert one.plan == one.plans[names[-1]]
        assert not one.weights.parts
    assert torch.equal(run(), outputs[names[-1]])


def test_a_network_that_no_graph_holds_keeps_the_plans_of_its_layers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def network_ms(run: search.Run) -> float:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(search, "_network_ms", network_ms)
    one, choice = made(layer(256, 64, (4, 8))), Choice()
    run = network(choice, [one])
    choice.settle(run, "net")
    assert one.plan == one.plans[min(one.plans)]
    assert run().isfinite().all()


def test_an_error_of_the_network_itself_is_not_hidden() -> None:
    def network() -> None:
        raise RuntimeError("an illegal memory access was encountered")

    choice = Choice()
    choice.add(made(layer(256, 64, (4, 8))))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        choice.settle(network, "net")


def test_a_ranked_layer_holds_weights_for_its_alternatives_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, choice = made(layer(256, 64, (4, 8))), Choice()
    packings = {name: plan.packing for name, plan in one.plans.items()}
    last = packings[max(packings)]
    names = [name for name in sorted(packings, reverse=True) if packings[name] == last]
    assert set(packings.values()) > {last}

    def ranking(runs: dict[str, search.Run], *_: object) -> list[str]:
        for plan in one.plans.values():  # as measuring them does
            one.weights.held(plan)
        return names

    monkeypatch.setattr(search, "ranking", ranking)
    choice.add(one)
    assert set(one.weights._held) == {last}
    assert one.weights.parts  # another plan can still be packed

"""A network under a pattern: what is pruned, what stays dense and why, what is read from zeros."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from csbench import models
from csbench.core.pattern import PatternSpec, parse
from csbench.errors import PatternError
from csbench.sparse import network
from csbench.sparse.network import Policy


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return models.build("resnet20").state_dict()


@pytest.fixture(scope="module")
def mobile() -> dict[str, Tensor]:
    return models.build("mobilenet_v2").state_dict()


def test_stem_and_classifier_stay_dense_and_nothing_else_changes(state: dict[str, Tensor]) -> None:
    pruned, layers = network.sparsify_state(state, parse("cs:4"))
    reasons = {name: found for name, found in layers.items() if isinstance(found, str)}
    assert reasons == {"conv1": "the stem: 3 input channels", "fc": "the classifier"}
    for key, value in state.items():
        if isinstance(layers.get(key.removesuffix(".weight")), PatternSpec):
            assert int(pruned[key].count_nonzero()) == value.numel() // 4
            kept = pruned[key] != 0
            assert torch.equal(pruned[key][kept], value[kept])
        else:
            assert torch.equal(pruned[key], value)
    assert int(state["layer1.0.conv1.weight"].count_nonzero()) == 16 * 16 * 9  # input untouched


def test_the_classifier_can_be_pruned_too(state: dict[str, Tensor]) -> None:
    _, layers = network.sparsify_state(state, parse("nm:2:4"), Policy(classifier=True))
    assert layers["fc"] == parse("nm:2:4").at(0.5)


def test_depthwise_and_indivisible_layers_stay_dense(mobile: dict[str, Tensor]) -> None:
    _, layers = network.sparsify_state(mobile, parse("cs:16"))
    reasons = {found for found in layers.values() if isinstance(found, str)}
    assert "depthwise, or one input channel" in reasons
    assert "16 does not divide 24 input channels" in reasons
    pointwise = [name for name, found in layers.items() if isinstance(found, PatternSpec)]
    assert pointwise


def test_both_sparsities(state: dict[str, Tensor]) -> None:
    pruned, layers = network.sparsify_state(state, parse("cs:4"))
    both = network.sparsities(pruned, layers)
    total = sum(w.numel() for w in network.layers_of(state).values())
    dense = state["conv1.weight"].numel() + state["fc.weight"].numel()
    assert both.layers == 0.75
    assert both.model == pytest.approx(0.75 * (total - dense) / total)


TEXTS = [
    "unstructured@0.9", "block:16x16@0.5", "nm:2:4", "nm:1:8", "ovw:8@0.75", "cs:2", "cs:8",
    "cs:2:8",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_what_was_sparsified_verifies_and_is_detected(state: dict[str, Tensor], text: str) -> None:
    pruned, layers = network.sparsify_state(state, parse(text))
    assert network.verify_state(pruned, parse(text)) == layers
    found, detected = network.detect_state(pruned)
    assert found == parse(text)
    assert {k for k, v in detected.items() if isinstance(v, PatternSpec)} == {
        k for k, v in layers.items() if isinstance(v, PatternSpec)
    }


@pytest.mark.parametrize("text", [*TEXTS, "shfl-bw:8@0.75"])
def test_a_pattern_named_without_numbers_takes_them_from_the_zeros(
    state: dict[str, Tensor], text: str
) -> None:
    pruned, _ = network.sparsify_state(state, parse(text))
    bare = parse(parse(text).name)
    found = network.filled_in(pruned, bare)
    assert found == parse(text)
    carried = {v for v in network.verify_state(pruned, bare).values() if not isinstance(v, str)}
    assert {v.name for v in carried} == {bare.name}


def test_metadata_tells_shfl_bw_from_ovw_but_only_when_it_is_true(state: dict[str, Tensor]) -> None:
    pruned, _ = network.sparsify_state(state, parse("shfl-bw:8@0.75"))
    assert network.detect_state(pruned)[0] == parse("ovw:8@0.75")
    assert network.detect_state(pruned, hint="shfl-bw:8@0.75")[0] == parse("shfl-bw:8@0.75")
    assert network.detect_state(pruned, hint="cs:4")[0] == parse("ovw:8@0.75")
    assert network.detect_state(pruned, hint="nonsense!")[0] == parse("ovw:8@0.75")


def test_layers_left_dense_by_a_checkpoint_are_named(state: dict[str, Tensor]) -> None:
    pruned, _ = network.sparsify_state(state, parse("cs:4"))
    pruned["layer1.0.conv1.weight"] = state["layer1.0.conv1.weight"]
    spec, layers = network.detect_state(pruned)
    assert spec == parse("cs:4")
    assert layers["layer1.0.conv1"] == "it has no zeros"
    with pytest.raises(PatternError, match=r"layer layer1\.0\.conv1: 1728 weights break cs:4"):
        network.verify_state(pruned, parse("cs:4"))


def test_a_pruned_classifier_is_noticed(state: dict[str, Tensor]) -> None:
    pruned, _ = network.sparsify_state(state, parse("nm:2:4"), Policy(classifier=True))
    spec, layers = network.detect_state(pruned)
    assert spec == parse("nm:2:4")
    assert layers["fc"] == spec.at(0.5)


def test_a_broken_layer_is_named_with_its_coordinates(state: dict[str, Tensor]) -> None:
    pruned, _ = network.sparsify_state(state, parse("cs:4"))
    weight = pruned["layer2.1.conv2.weight"].clone()
    at = (weight == 0).nonzero()[99].tolist()
    weight[tuple(at)] = 1e-4
    pruned["layer2.1.conv2.weight"] = weight
    for spec in (parse("cs:4"), parse("cs")):
        with pytest.raises(PatternError) as error:
            network.verify_state(pruned, spec)
        assert "layer layer2.1.conv2: 1 weight breaks cs:4" in str(error.value)
        assert str(at) in str(error.value)


def test_a_dense_network_keeps_no_pattern(state: dict[str, Tensor]) -> None:
    assert network.detect_state(state)[0] == parse("dense")
    with pytest.raises(PatternError, match="the checkpoint is dense; prune it with"):
        network.verify_state(state, parse("block"))
    network.verify_state(state, parse("block:16x16@0"))  # asked for: nothing is left out


def test_what_cannot_be_done_is_said(state: dict[str, Tensor]) -> None:
    with pytest.raises(PatternError, match="no layer can carry cs:7"):
        network.sparsify_state(state, parse("cs:7"))
    with pytest.raises(PatternError, match="needs a sparsity"):
        network.sparsify_state(state, parse("block"))
    with pytest.raises(PatternError, match="unknown pattern 'blok'; did you mean block"):
        network.sparsify_state(state, PatternSpec("blok", (), 0.5))
    with pytest.raises(PatternError, match="unknown pattern 'blok'"):
        network.verify_state(state, PatternSpec("blok"))


def test_squeeze_and_excite_does_not_pass_for_the_classifier() -> None:
    state = {
        "conv.weight": torch.ones(8, 8, 3, 3),
        "fc.weight": torch.ones(10, 8),
        "layer.se.fc.weight": torch.ones(8, 8),
    }
    layers = network.plan(state, parse("nm:2:4"))
    assert layers["fc"] == "the classifier"
    assert isinstance(layers["layer.se.fc"], PatternSpec)


def test_the_number_of_threads_is_left_as_it_was(state: dict[str, Tensor]) -> None:
    torch.set_num_threads(2)
    pruned, _ = network.sparsify_state(state, parse("cs:4"))
    with pytest.raises(PatternError):
        network.verify_state(pruned, parse("cs:8"))
    assert torch.get_num_threads() == 2

"""The flat buffer of sparse layers: masks as csbench.sparse chooses them, in both memory orders."""

from __future__ import annotations

import pytest
import torch

from csbench import models
from csbench.core.pattern import PatternSpec, parse
from csbench.errors import PatternError
from csbench.sparse.patterns import for_spec
from csbench.training.layers import SparseLayers, top_n

SPECS = ("nm:2:4", "nm:1:4", "nm:4:8", "nm:1:16", "nm:4:16", "cs:2", "cs:4", "cs:16", "cs:2:8")


def spec_of(text: str) -> PatternSpec:
    spec = parse(text)
    return spec.at(spec.own_sparsity or 0.0)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("text", SPECS)
def test_masks_are_those_of_the_pattern(text: str, channels_last: bool) -> None:
    model = models.build("resnet20", seed=1)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    spec = spec_of(text)
    layers = SparseLayers(model, spec, channels_last)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    layers.choose(layers.flat.abs(), layers.kept_of_group[0])
    for parameter, mask in zip(layers.parameters, layers.masks, strict=True):
        own = for_spec(spec).mask(parameter.detach().contiguous())
        assert torch.equal(own, mask)
        assert parameter.is_contiguous(
            memory_format=torch.channels_last if channels_last else torch.contiguous_format
        )


def test_parameters_are_views_of_the_buffer() -> None:
    model = models.build("resnet20")
    layers = SparseLayers(model, spec_of("cs:4"))
    layers.flat.zero_()
    named = dict(model.named_parameters())
    assert len(layers.names) == 20  # all but the stem and the classifier, shortcuts included
    assert all(not named[name].any() for name in layers.names)
    assert named["conv1.weight"].any() and named["fc.weight"].any()


@pytest.mark.parametrize(("m", "n"), [(2, 1), (4, 2), (4, 3), (8, 4), (16, 1), (16, 4), (4, 4)])
def test_exactly_n_are_kept_even_among_ties(m: int, n: int) -> None:
    draw = torch.Generator().manual_seed(m * n)
    magnitude = torch.randint(3, (50, m, 6), generator=draw).float()
    out = torch.zeros(50, m, 6, dtype=torch.bool)
    top_n(magnitude, n, out)
    assert (out.sum(1) == n).all()
    largest = magnitude.topk(n, dim=1).values.sum(1)
    assert torch.equal((magnitude * out).sum(1), largest)


def test_a_pattern_that_no_layer_can_take_is_refused() -> None:
    with pytest.raises(PatternError, match="no layer can carry block:64x64"):
        SparseLayers(torch.nn.Sequential(torch.nn.Conv2d(8, 8, 1)), spec_of("block:64x64@0.5"))

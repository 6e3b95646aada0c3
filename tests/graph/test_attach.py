"""Patterns are attached by the layer's name."""

from __future__ import annotations

import pytest

from csbench.core.pattern import parse
from csbench.errors import ModelError
from csbench.graph import attach, trace
from tests.graph import nets


def test_attach_sets_the_named_layers_and_no_other() -> None:
    program = trace(nets.randomised(nets.ResidualTwice()), (3, 6, 6), "net")
    spec = parse("cs:2")
    first = attach(program, {"b": spec})
    assert [c.pattern for c in first.convolutions] == [None, spec, None, None]
    assert [c.pattern for c in attach(first, {"c": spec}).convolutions] == [None, None, spec, None]
    assert [c.pattern for c in program.convolutions] == [None] * 4


def test_a_name_that_is_no_layer() -> None:
    program = trace(nets.randomised(nets.Sizes()), (3, 6, 6), "net")
    with pytest.raises(ModelError, match="unknown layer of net 'token'; did you mean tokens"):
        attach(program, {"token": parse("nm:2:4")})

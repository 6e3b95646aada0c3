"""Rows of vectors come to lie side by side where only convolutions read them; results stay."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from csbench.backends.conformance.network import INPUT, small_program
from csbench.backends.vector.together import rows_together
from csbench.backends.vector.units import vectors_of
from csbench.core.pattern import parse
from csbench.graph import reference
from csbench.graph.program import Program
from tests.backends.cs import nets


def program(pattern: str) -> Program:
    return small_program(parse(pattern), seed=1)


def together(program: Program) -> set[str]:
    """The layers whose vectors are neighbouring rows."""
    found = set()
    for conv in program.convolutions:
        if conv.pattern is not None:
            rows = vectors_of(conv.weight, conv.pattern).row_permutation.reshape(-1, 8)
            if (rows.diff() == 1).all():
                found.add(conv.name)
    return found


@pytest.mark.parametrize("pattern", ["ovw:8@75%", "shfl-bw:8@75%"])
def test_rows_that_only_convolutions_read_come_together(pattern: str) -> None:
    given = program(pattern)
    made = rows_together(given)
    assert together(given) == set()
    # Of a3 and the shortcut the one that adds; b2 and c2 go to a mean of torch's.
    assert together(made) == {"a1", "a2", "a3", "b1", "c1"}
    assert [conv.pattern for conv in made.convolutions] == [c.pattern for c in given.convolutions]
    x = torch.randn(2, *INPUT)
    expected = reference.run(given, x)
    assert reference.relative_error(reference.run(made, x), expected) < 1e-6


def test_the_result_keeps_its_order() -> None:
    given = program("ovw:8@75%")
    (result,) = (step.output for step in given.steps if step.name == "a2")
    given = replace(given, result=result)
    made = rows_together(given)
    assert together(made) == {"a1", "a3", "b1", "c1"}
    x = torch.randn(1, *INPUT)
    assert reference.relative_error(reference.run(made, x), reference.run(given, x)) < 1e-6


@pytest.mark.parametrize("pattern", ["block:8x8@50%", "cs:4", "unstructured@75%"])
def test_other_patterns_stay_as_they_are(pattern: str) -> None:
    given = program(pattern)
    made = rows_together(given)
    assert all(a is b for a, b in zip(given.convolutions, made.convolutions, strict=True))


class Line(nn.Module):
    """Two layers with a pooling between them, whose value is also read by the rest."""

    def __init__(self, rest: nn.Module) -> None:
        super().__init__()
        self.first, self.pool = nn.Conv2d(3, 32, 1), nn.MaxPool2d(2)
        self.second, self.rest = nn.Conv2d(32, 32, 1), rest

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.pool(self.first(x))
        out: torch.Tensor = self.second(y) + self.rest(y)
        return out


@pytest.mark.parametrize(
    ("rest", "moved"),
    [
        (nn.Conv2d(32, 32, 1), True),
        (nn.Conv2d(32, 32, 3, padding=1, groups=32), False),
        (nn.Softmax(1), False),
    ],
    ids=["a layer", "a depthwise layer", "another operation"],
)
def test_a_pooling_passes_channels_on_others_do_not(rest: nn.Module, moved: bool) -> None:
    given = nets.program("", Line(rest))
    first = given.convolutions[0]
    rows = torch.arange(32).reshape(4, 8).t().reshape(-1)  # of every fourth row a vector
    kept = torch.zeros(32, 3, 1, 1)
    for group in range(8):
        kept[rows[4 * group : 4 * group + 4], group % 3] = 1
    carrying = replace(first, weight=first.weight * kept, pattern=parse("ovw:4"))
    steps = tuple(replace(s, op=carrying) if s.op is first else s for s in given.steps)
    made = rows_together(replace(given, steps=steps))
    assert (made.convolutions[0] is not carrying) == moved
    x = torch.randn(1, *given.input_size)
    expected = reference.run(replace(given, steps=steps), x)
    assert reference.relative_error(reference.run(made, x), expected) < 1e-6

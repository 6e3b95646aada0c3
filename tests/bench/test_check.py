"""The correctness gate: what passes, what never does, and when the limit may rise."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from csbench.bench.capture import Inputs
from csbench.bench.check import ALLOWANCE, Gate, Reference, passed

WEIGHT = torch.randn(64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 8


def deep(inputs: Inputs, dtype: torch.dtype, depth: int) -> Tensor:
    x = inputs[0].to(dtype)
    for _ in range(depth):
        x = x @ WEIGHT.to(dtype)
    return x


def reference(dtype: str = "fp32", batch: int = 3, depth: int = 1) -> Reference:
    def draw(seed: int) -> Inputs:
        return (torch.randn(batch, 64, generator=torch.Generator().manual_seed(seed)),)

    return Reference(lambda x, t: deep(x, t, depth), draw, dtype, torch.device("cpu"))


def right(inputs: Inputs) -> Tensor:
    return deep(inputs, inputs[0].dtype, 1)


def test_a_right_output_passes_in_every_precision() -> None:
    for dtype in ("fp32", "fp16", "bf16"):
        found = Gate(reference(dtype), None).poisoned(right, seed=1)
        assert passed(found)
        assert 0 < (found.relative_error or 0) < found.tolerance


def test_nan_infinity_and_a_wrong_shape_never_pass() -> None:
    def spoilt(value: float) -> Tensor:
        out = right(reference().mixed(1))
        out[0, 3] = value
        return out

    gate = Gate(reference(), rtol=None)
    for subject in (
        lambda x: spoilt(math.nan),
        lambda x: spoilt(math.inf),
        lambda x: right(x)[:2],
        lambda x: right(x)[:, :5],
    ):
        assert not passed(gate.fresh(subject, 1))
    assert not passed(Gate(reference(), rtol=1e9).fresh(lambda x: spoilt(math.nan), 1))


def test_memory_that_was_not_written_is_nan_while_poisoned() -> None:
    gate = Gate(reference(), None)
    assert gate.poisoned(lambda x: torch.empty_like(right(x)), 1).relative_error == math.inf


@pytest.mark.parametrize("image", range(9))
def test_every_image_of_a_batch_is_looked_at(image: int) -> None:
    def one_wrong(inputs: Inputs) -> Tensor:
        out = right(inputs)
        out[image] += 1e-3
        return out

    assert passed(Gate(reference(batch=9), None).fresh(right, 1))
    assert not passed(Gate(reference(batch=9), None).fresh(one_wrong, 1))


def test_images_that_change_places_are_found() -> None:
    gate = Gate(reference(batch=64), None)
    for step in (1, 2, 8, 32):
        assert not passed(gate.fresh(lambda x, step=step: right(x).roll(step, 0), 1))


def test_a_graph_that_is_wrong_is_found_among_others() -> None:
    class Replayed:
        """The third of its graphs is off."""

        turns = 4

        def fresh(self, inputs: Inputs, turn: int = 0) -> Tensor:
            return right(inputs) * (1.001 if turn == 2 else 1)

    found = [*Gate(reference(), None).replayed(Replayed(), 1)]  # type: ignore[arg-type]
    assert [passed(check) for check in found] == [True, True, False, True]


def test_writing_to_inputs_spoils_no_others() -> None:
    drawn = torch.randn(3, 64)
    known = Reference(lambda x, t: x[0].to(t), lambda seed: (drawn,), "fp32", torch.device("cpu"))
    before = drawn.clone()
    known.inputs(1)[0].zero_()
    assert torch.equal(drawn, before)


def test_a_remembered_result_fails_on_fresh_inputs() -> None:
    gate = Gate(reference(), None)
    remembered = right(reference().mixed(1))
    assert passed(gate.fresh(lambda x: remembered, 1))
    assert not passed(gate.fresh(lambda x: remembered, 2))


def test_the_limit_rises_only_as_far_as_the_precision_itself_is_off() -> None:
    known = reference("bf16", depth=60)
    plain = known.plain_error(1)
    assert plain > 1e-2  # no bf16 execution of this network keeps the tolerance

    own = Gate(known, None).fresh(lambda x: deep(x, torch.bfloat16, 60), 1)
    assert passed(own)
    assert own.tolerance == ALLOWANCE * plain

    off = 1 + 3 * plain
    assert not passed(Gate(known, None).fresh(lambda x: off * deep(x, torch.bfloat16, 60), 1))


def test_a_limit_that_the_user_gives_is_never_raised() -> None:
    found = Gate(reference("bf16", depth=60), rtol=1e-3).fresh(
        lambda x: deep(x, torch.bfloat16, 60), 1
    )
    assert not passed(found)
    assert found.tolerance == 1e-3

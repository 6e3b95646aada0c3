"""Infinity times zero tells which kernels leave zeros out; our own do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from csbench.backends import conformance, registry
from csbench.backends.chain import chain
from csbench.backends.conformance.layers import Trial, trials
from csbench.backends.zeros import multiplies_zeros, network_multiplies_zeros
from csbench.core.case import Case
from csbench.core.pattern import parse
from csbench.graph.program import Conv, Program
from tests.backends import cheats

pytestmark = pytest.mark.usefixtures("one_thread")

Slots = Callable[[Tensor], Tensor]  # OIHW weights to where a kernel multiplies


def filled_fours(weight: Tensor, spare: int) -> Tensor:
    """2:4 with every empty slot at one place of its four."""
    slots = weight != 0
    slots[:, spare::4] = True
    return slots


def far_apart(weight: Tensor, spare: int) -> Tensor:
    """The same with candidates a quarter of the channels apart."""
    slots, quarter = weight != 0, weight.shape[1] // 4
    slots[:, spare * quarter : (spare + 1) * quarter] = True
    return slots


def padded_lists(weight: Tensor, channel: int) -> Tensor:
    """Every list filled up with zeros that meet one channel."""
    slots = weight != 0
    slots[:, channel % weight.shape[1]] = True
    return slots


class WithEmptySlots(cheats.HonestNetwork):
    """Right and sparse; where it multiplies some zeros is told by `slots`."""

    patterns = frozenset({"nm", "cs"})

    def __init__(self, slots: Slots) -> None:
        self.slots = slots

    def compute(self, conv: Conv, case: Case, x: Tensor, residual: Tensor | None) -> Tensor:
        return self.product(conv, x, residual)

    def product(self, conv: Conv, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if conv.pattern is None:
            return cheats.dense(conv, x, residual)
        rows = F.unfold(x.float(), conv.weight.shape[2:], conv.dilation, conv.padding, conv.stride)
        slots = self.slots(conv.weight).flatten(1)
        size = slots.shape
        values = conv.weight.flatten(1)[slots]
        matrix = torch.sparse_coo_tensor(slots.nonzero().T, values, size, check_invariants=True)
        y = torch.stack([matrix @ image for image in rows]) + conv.bias[:, None]
        return cheats.finished(conv, y.reshape(len(x), *conv.output_size), x, residual)

    def image(self, program: Program, x: Tensor) -> Tensor:
        return chain(program, [partial(self.product, c) for c in program.convolutions])(x)


EMPTY_SLOTS = {
    **{f"place {i} of four": ("nm:1:4", partial(filled_fours, spare=i)) for i in range(4)},
    **{f"quarter {i}": ("cs:4", partial(far_apart, spare=i)) for i in range(4)},
    **{f"channel {i}": ("cs:4", partial(padded_lists, channel=i)) for i in (0, 5, 20, 31)},
}


def layers(pattern: str) -> Iterator[Trial]:
    for trial in trials("slots", "onednn", "cpu", "fp32", parse(pattern), 0):
        if trial.conv.pattern is not None and trial.conv.groups == 1:
            yield trial


@pytest.mark.parametrize("name", EMPTY_SLOTS)
def test_zeros_that_fill_slots_do_not_make_a_kernel_dense(name: str) -> None:
    pattern, slots = EMPTY_SLOTS[name]
    backend = WithEmptySlots(slots)
    assert not any(
        multiplies_zeros(backend.lower(t.conv, t.case), t.conv, t.case)
        or network_multiplies_zeros(backend, t.conv, t.case)
        for t in layers(pattern)
    )


def test_a_backend_with_empty_slots_conforms() -> None:
    backend = WithEmptySlots(partial(filled_fours, spare=3))
    report = conformance.run(backend, device="cpu", dtype="fp32", pattern="nm:1:4")
    assert report.reasons == ()


@pytest.mark.parametrize("pattern", ["nm:1:4", "nm:2:4", "cs:2", "cs:16"])
def test_a_dense_kernel_is_told_by_every_layer_with_zeros(pattern: str) -> None:
    backend = WithEmptySlots(partial(torch.ones_like, dtype=torch.bool))
    found = [
        (multiplies_zeros(backend.lower(t.conv, t.case), t.conv, t.case),
         network_multiplies_zeros(backend, t.conv, t.case), t.name)
        for t in layers(pattern)
    ]  # fmt: skip
    assert len(found) > 10
    assert all(alone and inside for alone, inside, _ in found), found


@pytest.mark.parametrize(
    ("name", "pattern", "dense"),
    [
        ("block-original", "block:16x16@0.75", False),
        ("cs", "cs:4", False),
        ("onednn", "cs:4", True),
        ("masked", "block:16x16@0.75", True),
        ("fake", "cs:4", True),
    ],
)
def test_dense_kernels_meet_the_zeros_and_sparse_ones_do_not(
    name: str, pattern: str, dense: bool
) -> None:
    backend = registry.get(name)
    if (missing := backend.missing("cpu")) is not None:
        pytest.skip(missing)
    found = []
    with torch.inference_mode():
        for trial in trials(name, "onednn", "cpu", "fp32", parse(pattern), 0):
            conv, case = trial.conv, trial.case
            if conv.pattern is not None and backend.why_not(conv, case) is None:
                found.append(multiplies_zeros(backend.lower(conv, case), conv, case))
    assert len(found) > 3
    assert any(found) if dense else not any(found)

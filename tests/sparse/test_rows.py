"""The row searches keep more magnitude than rows in their own order, or shuffled at random."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from csbench.sparse.patterns import rows

Search = Callable[[Tensor, int, int], Tensor]
searches = pytest.mark.parametrize("search", [rows.cluster, rows.shuffle])


def planted(rows_: int, columns: int, v: int, n: int) -> tuple[Tensor, Tensor]:
    """|w| in which hidden groups of V rows are large in the same n columns; and the groups."""
    weight = 0.1 * torch.randn(rows_, columns)
    order = torch.randperm(rows_)
    group = torch.empty(rows_, dtype=torch.long)
    for number, members in enumerate(order.split(v)):
        group[members] = number
        weight[members[:, None], torch.randperm(columns)[:n]] += torch.randn(len(members), n)
    return weight.abs(), group


def trained_like(rows_: int, columns: int) -> Tensor:
    """|w| with channels of different scales and rows that resemble one another."""
    shared = torch.randn(rows_, 16) @ torch.randn(16, columns) / 4
    scale = torch.exp(0.5 * torch.randn(columns)) * torch.exp(0.3 * torch.randn(rows_, 1))
    return (torch.randn(rows_, columns) * scale * torch.exp(0.5 * shared)).abs()


@searches
@pytest.mark.parametrize(("count", "v"), [(256, 32), (130, 16), (64, 8)])
def test_hidden_groups_are_found(search: Search, count: int, v: int) -> None:
    torch.manual_seed(0)
    weight, hidden = planted(count, 288, v, 72)
    best = rows.kept_magnitude(weight, hidden, 72)
    found = rows.kept_magnitude(weight, search(weight, v, 72), 72)
    own = rows.kept_magnitude(weight, rows.identity(count, v), 72)
    assert found > 0.99 * best
    assert found > 1.5 * own


@searches
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["gaussian", "trained-like"])
def test_no_order_of_rows_is_as_good(search: Search, seed: int, kind: str) -> None:
    torch.manual_seed(seed)
    weight = torch.randn(256, 288).abs() if kind == "gaussian" else trained_like(256, 288)
    found = rows.kept_magnitude(weight, search(weight, 16, 36), 36)
    own = rows.identity(256, 16)
    random = [own[torch.randperm(256)] for _ in range(5)]
    assert found > 1.005 * max(rows.kept_magnitude(weight, g, 36) for g in [own, *random])


@searches
def test_groups_are_balanced_and_the_last_takes_the_remainder(search: Search) -> None:
    for count, v in ((37, 8), (8, 8), (100, 32)):
        group = search(torch.rand(count, 40), v, 10)
        assert torch.equal(torch.bincount(group), torch.bincount(rows.identity(count, v)))


@searches
def test_a_search_depends_on_the_weights_alone(search: Search) -> None:
    weight = trained_like(96, 64)
    torch.manual_seed(1)
    first = search(weight, 16, 16)
    torch.manual_seed(2)
    assert torch.equal(first, search(weight, 16, 16))

"""The reverse of a row search: which rows share a group, read from the zeros of a pruned weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from csbench.sparse.layout import ceil_div


@dataclass(frozen=True, eq=False)
class Grouping:
    """Rows sorted into groups of V, and the nonzeros that fit into none."""

    group: Tensor  # int64 [Cout]
    broken: Tensor  # bool [Cout, columns]

    @property
    def permutation(self) -> Tensor:
        """Rows in the order of their groups, the group with the remainder last."""
        return self.group.argsort(stable=True)


def classes(support: Tensor) -> Tensor:
    """int64 [Cout]: rows with the same support (bool [Cout, columns]) have the same number."""
    generator = torch.Generator().manual_seed(0)
    key = torch.randint(2**62, (support.shape[1],), generator=generator)
    # Integer sums are exact (modulo 2^64), so equal supports give equal keys.
    keys = torch.where(support, key, 0).sum(1)
    distinct = torch.unique(keys)
    return torch.searchsorted(distinct, keys)


def usual_count(support: Tensor) -> int:
    """The number of columns that most rows keep; chance zeros make a few rows shorter."""
    counts = torch.bincount(support.sum(1))
    return max(1, int(len(counts) - 1 - counts.flip(0).argmax()))


def recover(support: Tensor, v: int, n: int) -> Grouping:
    """Groups of V rows whose joint support is at most n columns.

    Rows of equal support belong together; the others (chance zeros) join a group that covers them.
    """
    seats = _Seats(support, v, n)
    row_class = classes(support)
    order = row_class.argsort(stable=True)
    leftover: list[Tensor] = []
    for rows in order.tensor_split(torch.bincount(row_class).cumsum(0)[:-1]):
        fits = int(support[rows[0]].count_nonzero()) <= n
        whole = len(rows) // v * v if fits else 0
        for start in range(0, whole, v):
            seats.open(rows[start : start + v])
        leftover.append(rows[whole:])
    leftover.sort(key=lambda rows: (-len(rows), -int(support[rows[:1]].count_nonzero())))
    for row in torch.cat(leftover).tolist():
        seats.place(row)
    return seats.grouping()


class _Seats:
    """Groups being filled, each with its joint support and the room left."""

    def __init__(self, support: Tensor, v: int, n: int) -> None:
        self.support, self.v, self.n = support, v, n
        self.limit = ceil_div(support.shape[0], v)
        self.group = torch.full((support.shape[0],), -1)
        self.broken = torch.zeros_like(support)
        self.joint = torch.zeros((self.limit, support.shape[1]))
        self.room: list[int] = []

    def open(self, rows: Tensor) -> None:
        """A new group of rows that share one support."""
        self.group[rows] = len(self.room)
        self.joint[len(self.room)] = self.support[rows[0]].float()
        self.room.append(self.v - len(rows))

    def place(self, row: int) -> None:
        """Seat one row where it fits best; if nowhere, its nonzeros outside are broken."""
        mine = self.support[row].float()
        size = float(mine.sum())
        shared = self.joint[: len(self.room)] @ mine
        shared[[left == 0 for left in self.room]] = -1
        best = int(shared.argmax()) if len(shared) and float(shared.max()) >= 0 else None
        extra = size - float(shared[best]) if best is not None else size
        joined = float(self.joint[best].sum()) + extra if best is not None else size
        can_open = len(self.room) < self.limit and size <= self.n
        near = joined <= self.n and extra <= max(1, self.n // 10)
        if best is not None and (extra == 0 or near or (not can_open and joined <= self.n)):
            self.joint[best].logical_or_(mine)
        elif can_open:
            self.open(torch.tensor([row]))
            return
        else:
            self.broken[row] = self.support[row]
            if best is not None:
                self.broken[row] &= self.joint[best] == 0
        if best is not None:
            self.group[row] = best
            self.room[best] -= 1

    def grouping(self) -> Grouping:
        """Seats given; rows without one fill up, and a group that is not full comes last."""
        homeless = (self.group < 0).nonzero()[:, 0]
        number = len(self.room)
        self.group[homeless] = number + torch.arange(len(homeless)) // self.v
        sizes = torch.bincount(self.group)
        rank = sizes.argsort(descending=True, stable=True).argsort()
        return Grouping(rank[self.group], self.broken)

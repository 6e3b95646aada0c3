"""Which output channels share a group of V: the row searches of ovw and shfl-bw.

A grouping is an int64 tensor [Cout] with each row's group; all groups have V rows but the last,
which takes the remainder. `importance` is |w| as [Cout, columns]; in every group the n columns of
largest sum are kept, and a search maximises the sum of all that is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from csbench.sparse.layout import ceil_div

ROUNDS = 20  # of assignment and update at most; most weights settle in 3 to 12
SAMPLE = 1 << 23  # weights that rows are compared by, at most: VGG's 4096 x 25088 has 100 million
DENSITIES = (0.25, 0.5, 1.0, 1.5, 2.0)  # of the mask that shuffle() groups by, times the wanted one


def identity(rows: int, v: int) -> Tensor:
    """Rows in their own order."""
    return torch.arange(rows) // v


def kept_columns(importance: Tensor, group: Tensor, n: int) -> Tensor:
    """bool [groups, columns]: the n columns of largest sum in every group."""
    sums = _sums(importance, group)
    chosen = sums.topk(n, dim=1, sorted=False).indices
    return torch.zeros(sums.shape, dtype=torch.bool).scatter_(1, chosen, True)


def kept_magnitude(importance: Tensor, group: Tensor, n: int) -> float:
    """The sum of |w| that vector-wise pruning keeps under a grouping."""
    return float(_sums(importance, group).topk(n, dim=1, sorted=False).values.double().sum())


def cluster(importance: Tensor, v: int, n: int) -> Tensor:
    """OVW's grouping: balanced k-means of the rows, seeded by top-n masks that lie far apart.

    A group's centre is the set of columns that it keeps, and a row goes where these hold most of
    its magnitude, so that every round raises the sum that is wanted. (K-means of the masks alone
    ends lower, and before these rounds it adds nothing.)
    """
    rows = importance.shape[0]
    masks = _sampled(_top(importance, n)).to(importance.dtype)
    seeded = _assign(masks @ masks[_spread(masks, ceil_div(rows, v))].T, v)
    refined = [_refined(importance, group, v, n) for group in (identity(rows, v), seeded)]
    return max(refined, key=lambda group: kept_magnitude(importance, group, n))


def shuffle(importance: Tensor, v: int, n: int) -> Tensor:
    """Shfl-BW's grouping: rows whose unstructured masks, at another density, overlap most.

    Groups are grown one after the other: from the row of most kept weights, always by the row that
    shares most of them with the group. The density that keeps most in the end is taken.
    """
    candidates = [identity(importance.shape[0], v)]
    sample = _sampled(importance)
    for relaxed in DENSITIES:
        share = relaxed * n / importance.shape[1]
        count = max(1, min(sample.numel(), round(share * sample.numel())))
        threshold = sample.flatten().topk(count, sorted=False).values.min()
        candidates.append(_grow((sample >= threshold).to(sample.dtype), v))
    return max(candidates, key=lambda group: kept_magnitude(importance, group, n))


def _grow(masks: Tensor, v: int) -> Tensor:
    rows = masks.shape[0]
    overlap = masks @ masks.T
    free = torch.zeros(rows)  # minus infinity once a row is taken
    group = torch.empty(rows, dtype=torch.long)
    count = overlap.diagonal().clone()
    for number in range(ceil_div(rows, v)):
        shared = count
        total = torch.zeros(rows)
        for _ in range(min(v, rows - number * v)):
            row = int((shared + free).argmax())
            group[row] = number
            free[row] = -torch.inf
            total += overlap[row]
            shared = total
    return group


def _refined(importance: Tensor, group: Tensor, v: int, n: int) -> Tensor:
    """The grouping after rows have moved to where most of them would be kept, while that helps."""
    best, most = group, kept_magnitude(importance, group, n)
    for _ in range(ROUNDS):
        group = _assign(importance @ kept_columns(importance, group, n).to(importance).T, v)
        magnitude = kept_magnitude(importance, group, n)
        if magnitude <= most:
            break
        best, most = group, magnitude
    return best


def _assign(value: Tensor, v: int) -> Tensor:
    """A balanced assignment of large total `value` [rows, groups].

    Every free row asks for its best open group; a group takes those that would lose most elsewhere.
    """
    rows, groups = value.shape
    room = torch.full((groups,), v)
    room[-1] = rows - v * (groups - 1)
    group = torch.full((rows,), -1)
    free = torch.arange(rows)
    while len(free):
        open_value = value[free].masked_fill(room == 0, -torch.inf)
        two = open_value.topk(min(2, groups), dim=1)
        wish = two.indices[:, 0]
        regret = (two.values[:, 0] - two.values[:, -1]).nan_to_num(posinf=0)
        order = regret.argsort(descending=True, stable=True)
        order = order[wish[order].argsort(stable=True)]  # by group, inside it by regret
        asked = wish[order]
        first = torch.searchsorted(asked, asked)
        taken = torch.arange(len(order)) - first < room[asked]
        group[free[order[taken]]] = asked[taken]
        room -= torch.bincount(asked[taken], minlength=groups)
        free = free[order[~taken]]
    return group


def _spread(masks: Tensor, count: int) -> Tensor:
    """Rows that lie far from one another: each next one overlaps least with those before."""
    chosen = [int(masks.sum(1).argmax())]
    nearest = masks @ masks[chosen[0]]
    for _ in range(count - 1):
        nearest[chosen[-1]] = torch.inf
        chosen.append(int(nearest.argmin()))
        nearest = torch.maximum(nearest, masks @ masks[chosen[-1]])
    return torch.tensor(chosen)


def _sums(matrix: Tensor, group: Tensor) -> Tensor:
    """[groups, columns]: the rows of every group added up."""
    return matrix.new_zeros((int(group.max()) + 1, matrix.shape[1])).index_add_(0, group, matrix)


def _sampled(matrix: Tensor) -> Tensor:
    """Every k-th column of a very large matrix: enough to tell which rows are alike."""
    return matrix[:, :: ceil_div(matrix.numel(), SAMPLE)]


def _top(importance: Tensor, n: int) -> Tensor:
    chosen = importance.topk(n, dim=1, sorted=False).indices
    return torch.zeros(importance.shape, dtype=torch.bool).scatter_(1, chosen, True)

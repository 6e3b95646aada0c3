"""Which columns a group of output channels keeps, and the lists of them that the kernels read.

A column is an input channel at a tap, numbered channel * taps + tap. A group of V rows (output
channels) holds every column that any of its rows keeps, with V weights for each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

WIDTHS = (1, 2, 4)  # V


class Weight:
    """A layer's weight on its device, and its rows in groups of any width."""

    def __init__(self, oihw: Tensor) -> None:
        self.values = oihw.flatten(2)  # [rows, channels, taps]
        self.kept = int(oihw.count_nonzero())
        self._groups: dict[int, tuple[Tensor, Tensor]] = {}

    def groups(self, v: int) -> tuple[Tensor, Tensor]:
        """Groups of v rows as int64 [groups, v] (-1: no row), and how many columns each holds."""
        if v not in self._groups:
            nonzero = self.values.flatten(1) != 0
            groups = groups_of(nonzero, v)
            held = torch.cat([nonzero, torch.zeros_like(nonzero[:1])])[groups.to(nonzero.device)]
            self._groups[v] = groups, held.any(1).sum(1).cpu()
        return self._groups[v]

    def let_go(self) -> None:
        """Forget the values, once what runs is packed; what was counted of them stays."""
        self.values = self.values.to("meta")

    def columns(self, v: int) -> int:
        """Columns that all groups of v rows hold together."""
        return int(self.groups(v)[1].sum())


@dataclass(frozen=True, eq=False)
class Lists:
    """The columns of every list one after the other; lists of one run are neighbours.

    `starts[run, i]` is where list i begins, counted from `runs[run]`, and the last one its end.
    Lists are filled up to whole granules by columns of weight zero.
    """

    offsets: Tensor  # int32 [columns]
    weights: Tensor  # float32 [columns, V]
    starts: Tensor  # int32 [runs, lists + 1]
    runs: Tensor  # int32 [runs + 1]

    @property
    def bytes(self) -> int:
        held = (self.offsets, self.weights, self.starts, self.runs)
        return sum(t.numel() * t.element_size() for t in held)


def groups_of(kept: Tensor, v: int) -> Tensor:
    """int64 [groups, v]: rows that share a group, -1 where there is none.

    `kept` is bool [rows, columns]. Rows pair up with those that share most columns, pairs with
    pairs; what is left over fills the last groups.
    """
    groups = torch.arange(len(kept)).unsqueeze(1)
    masks = kept.to(torch.float32)
    while groups.shape[1] < v:
        if len(groups) % 2:
            groups = torch.cat([groups, torch.full_like(groups[:1], -1)])
            masks = torch.cat([masks, torch.zeros_like(masks[:1])])
        pairs = _pairs((masks @ masks.T).cpu().numpy())
        groups = groups[pairs].flatten(1)
        masks = masks[pairs.to(masks.device)].amax(1)
    return groups


def _pairs(overlap: np.ndarray) -> Tensor:
    """[n / 2, 2]: in turn, the row with most columns takes the one that shares most of them."""
    order = np.argsort(-overlap.diagonal(), kind="stable")
    shared = overlap.copy()
    np.fill_diagonal(shared, -1)
    free = np.ones(len(overlap), dtype=bool)
    pairs = []
    for row in order:
        if free[row]:
            free[row] = False
            shared[:, row] = -1
            other = int(shared[row].argmax())
            free[other] = False
            shared[:, other] = -1
            pairs.append((int(row), other))
    return torch.tensor(pairs)


def dealt(groups: Tensor, lengths: Tensor, hands: int, each: int) -> Tensor:
    """[hands, each, V]: groups so that every hand gets about as many columns in all.

    They go round from the longest to the shortest, back and forth; -1 where none is left.
    """
    order = lengths.argsort(descending=True, stable=True)
    table = torch.full((hands * each, groups.shape[1]), -1)
    table[: len(order)] = groups[order]
    table = table.view(each, hands, -1)
    table[1::2] = table[1::2].flip(1)
    return table.transpose(0, 1).contiguous()


def lists(weight: Tensor, slots: Tensor, offsets: Tensor, chunk: int, granule: int) -> Lists:
    """Lists of weight [rows, channels, taps] for groups `slots` [blocks, lists, V].

    A run is a block's lists in one chunk of channels; `offsets` [chunk * taps] are those of its
    columns. Runs begin at multiples of four columns, lists at multiples of `granule`.
    """
    blocks, each, v = slots.shape
    _, channels, taps = weight.shape
    chunks = -(-channels // chunk)
    padded = weight.new_zeros(weight.shape[0] + 1, chunks * chunk * taps)
    padded[:-1, : channels * taps] = weight.flatten(1)
    values = padded[slots.to(weight.device)]  # row -1 is the one of zeros
    values = values.view(blocks, each, v, chunks, -1).permute(0, 3, 1, 4, 2)
    kept = (values != 0).any(-1)  # [blocks, chunks, lists, columns of a chunk]
    counts = kept.sum(-1).flatten(0, 1)
    sizes = (counts + granule - 1) // granule * granule
    rest = -sizes.sum(1, keepdim=True) % 4  # one more list, of nothing, ends the run
    counts, sizes = (torch.cat(both, 1) for both in ((counts, rest * 0), (sizes, rest)))
    entry, exists = _entries(counts.flatten(), sizes.flatten())
    found, chosen = offsets.to(weight.device)[kept.nonzero()[:, -1]], values[kept]
    if not len(found):
        found, chosen = found.new_zeros(1), chosen.new_zeros(1, v)
    return Lists(
        offsets=found[entry].to(torch.int32),
        weights=torch.where(exists.unsqueeze(1), chosen[entry], 0.0),
        starts=(sizes.cumsum(1) - sizes).to(torch.int32),
        runs=_begins(sizes.sum(1)).to(torch.int32),
    )


def _entries(counts: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """For each place in lists of `sizes` which entry stands there, and whether it is filling.

    Filling repeats the last entry of its own list: the input that it multiplies by zero is then
    one that the list reads anyway.
    """
    of = torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)
    rank = torch.arange(len(of), device=sizes.device) - _begins(sizes)[of]
    entry = _begins(counts)[of] + rank.minimum(counts[of] - 1)
    return entry.clamp(0, max(int(counts.sum()) - 1, 0)), rank < counts[of]


def _begins(sizes: Tensor) -> Tensor:
    """[n + 1]: where each begins, and the end of the last."""
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])

"""block:RxC: blocks of R output by C input channels at one tap, as many in every block row."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor

from csbench.core.pattern import PatternSpec
from csbench.sparse.formats import BlockPacked
from csbench.sparse.layout import Shape, as_oihw, ceil_div, from_blocks, shape_of, to_blocks
from csbench.sparse.patterns.base import EXPLAINED, About, Pattern, Verdict, kept, log2_choose

SIZES = (4, 8, 16, 32, 64)  # sides of blocks that detection tries


class Block(Pattern):
    """Blocks by Euclidean norm; every block row keeps the same number. Ragged edges are padded."""

    about = About(
        "R x C, output x input channels (default 32x32)", "any",
        "the blocks of largest norm, the same number in every block row", "block:32x32@0.75",
    )  # fmt: skip

    @property
    def size(self) -> tuple[int, int]:
        rows, columns = self.spec.parameters or (32, 32)
        return rows, columns

    def grid(self, shape: Shape) -> tuple[int, int]:
        """(block rows, block columns); the columns count every tap."""
        cout, cin, kh, kw = shape
        rows, columns = self.size
        return ceil_div(cout, rows), kh * kw * ceil_div(cin, columns)

    def why_not(self, shape: Shape) -> str | None:
        for channels, side, kind in zip(shape[:2], self.size, ("output", "input"), strict=True):
            if 2 * channels < side:
                return f"{channels} {kind} channels fill less than half of a block of {side}"
        if self.grid(shape)[1] < 2:
            return "a block row is a single block: nothing can be left out"
        return None

    def mask(self, weight: Tensor, sparsity: float | None = None) -> Tensor:
        spec = self.target(weight, sparsity)
        blocks = to_blocks(weight, *self.size)
        count = kept(blocks.shape[1], spec.sparsity or 0.0)
        chosen = blocks.square().sum((2, 3)).topk(count, dim=1).indices
        keep = torch.zeros_like(blocks[:, :, 0, 0], dtype=torch.bool).scatter_(1, chosen, True)
        mask = from_blocks(keep[:, :, None, None].expand(blocks.shape), shape_of(weight))
        return mask.reshape(weight.shape)

    def verify(self, weight: Tensor) -> Verdict:
        """Without a sparsity, the one that the weight's zeros would be if blocks explained them."""
        spec = self.spec.at(self._sparsity(weight))
        if int(self._counts(as_oihw(weight) != 0).max()) <= kept(
            self.grid(shape_of(weight))[1], spec.sparsity or 0.0
        ):
            return Verdict(spec, 0, (), weight)
        broken = (weight != 0) & ~self.mask(weight, spec.sparsity)
        return self.verdict(weight, broken, spec)

    def _sparsity(self, weight: Tensor) -> float:
        if self.spec.sparsity is not None:
            return self.spec.sparsity
        nonzero = as_oihw(weight) != 0
        spec = _explained(nonzero, to_blocks(nonzero, *self.size).flatten(2).any(2), self)
        if spec is not None and spec.sparsity is not None:
            return spec.sparsity
        columns = self.grid(shape_of(weight))[1]
        density = int(nonzero.count_nonzero()) / nonzero.numel()
        return 1 - max(1, math.ceil(density * columns)) / columns

    def _counts(self, nonzero: Tensor) -> Tensor:
        """Blocks with a nonzero, per block row."""
        return to_blocks(nonzero, *self.size).flatten(2).any(2).sum(1)

    def pack(self, weight: Tensor) -> BlockPacked:
        return BlockPacked.pack(weight, self.size)

    def padding(self, shape: Shape) -> int:
        rows, columns = self.grid(shape)
        return rows * columns * math.prod(self.size) - math.prod(shape)

    def freedom(self, shape: Shape) -> float:
        rows, columns = self.grid(shape)
        return rows * log2_choose(columns, self.kept_units(shape))

    def kept_units(self, shape: Shape) -> int:
        return kept(self.grid(shape)[1], self.spec.sparsity or 0.0)

    @classmethod
    def holding(cls, nonzero: Tensor) -> list[PatternSpec]:
        """Block sizes that explain the zeros of this support (bool OIHW), with their sparsity."""
        found: list[PatternSpec] = []
        finest = to_blocks(nonzero, SIZES[0], SIZES[0]).flatten(2).any(2)
        zeros = int(nonzero.numel() - nonzero.count_nonzero())
        if 2 * _valid(nonzero, finest, cls(PatternSpec("block", (SIZES[0], SIZES[0])))) < zeros:
            return found  # larger blocks account for even fewer
        grid = finest.reshape(finest.shape[0], math.prod(nonzero.shape[2:]), -1)
        for rows in SIZES:
            for columns in SIZES:
                block = cls(PatternSpec("block", (rows, columns)))
                if block.why_not(shape_of(nonzero)) is None:
                    used = _pool(grid, rows // SIZES[0], columns // SIZES[0]).flatten(1)
                    spec = _explained(nonzero, used, block)
                    if spec is not None and int(used.sum(1).max()) <= _usual(used):
                        found.append(spec)
        return found


def _pool(grid: Tensor, rows: int, columns: int) -> Tensor:
    """Any of `rows` x `columns` neighbours in `[block_rows, taps, channel_blocks]`."""
    height, taps, width = grid.shape
    padded = F.pad(grid, (0, -width % columns, 0, 0, 0, -height % rows))
    split = padded.reshape(-1, rows, taps, padded.shape[2] // columns, columns)
    return split.any(4).any(1)


def _usual(used: Tensor) -> int:
    """How many blocks most block rows keep; of two numbers as frequent the smaller."""
    return max(1, int(torch.bincount(used.sum(1)).argmax()))


def _explained(nonzero: Tensor, used: Tensor, block: Block) -> PatternSpec | None:
    """The pattern with its sparsity, if as many blocks in every row account for most of the zeros.

    Zeros of the padded edge count with the block that they lie in.
    """
    rows, columns = used.shape
    most = _usual(used)
    size = math.prod(block.size)
    unused = (rows * columns - int(used.count_nonzero())) * size
    inside = int(nonzero.numel() - nonzero.count_nonzero()) - _valid(nonzero, used, block)
    structural = rows * (columns - most) * size
    if most == columns or structural < EXPLAINED * (unused + inside):
        return None
    return PatternSpec("block", block.spec.parameters, 1 - most / columns)


def _valid(nonzero: Tensor, used: Tensor, block: Block) -> int:
    """How many weights, padding left out, lie in the unused blocks."""
    cout, cin, kh, kw = nonzero.shape
    rows, columns = block.size
    heights = (cout - torch.arange(0, cout, rows)).clamp(max=rows)
    widths = (cin - torch.arange(0, cin, columns)).clamp(max=columns).repeat(kh * kw)
    return int((~used * heights[:, None] * widths).sum())

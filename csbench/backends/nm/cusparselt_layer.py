"""One convolution by cuSPARSELt, in any way and by any algorithm.

Bias, residual and ReLU stand in the last product's epilogue.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from csbench.backends.base import TORCH_DTYPE
from csbench.backends.nm.cusparselt_ways import matrices, ways
from csbench.core.case import Case
from csbench.graph.program import Conv
from csbench.kernels.cusparselt.product import Algorithm, Epilogue, Plan, Problem, compress
from csbench.kernels.cusparselt.windows import side_by_side

_TILE, _FEW = 128 * 128, 66  # with fewer results than so many such tiles K is cut as well
_SPLITS = (2, 4, 8)


class Choice(NamedTuple):
    """A way, and the library's algorithm for its products."""

    way: str
    algorithm: Algorithm

    def __str__(self) -> str:
        number, split = self.algorithm
        return f"{self.way} {number}{f'/{split}' if split > 1 else ''}"


def parse(text: str) -> Choice:
    """The inverse of str()."""
    way, _, number = text.rpartition(" ")
    number, _, split = number.partition("/")
    return Choice(way, Algorithm(int(number), int(split or 1)))


class _Plans(NamedTuple):
    """Of a way's products the last one has the epilogue."""

    first: Plan | None
    last: Plan


class _Last:
    """An epilogue, equal to others with the same numbers."""

    def __init__(self, bias: Tensor, activation: str) -> None:
        self.bias, self.activation = bias, activation
        self._content = (tuple(bias.tolist()), activation)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Last) and self._content == other._content

    def __hash__(self) -> int:
        return hash(self._content)


@functools.cache
def _plan_of(problem: Problem, device: torch.device, last: _Last | None = None) -> Plan:
    """A plan, the same one for copies of a layer: it takes 0.2 s to make."""
    index = device.index or 0
    if last is None:
        return Plan(problem, index)
    bias = last.bias.to(device, problem.dtype)
    return Plan(problem, index, Epilogue(bias, last.activation))


class Layer:
    """A layer on the device whose groups of input channels are neighbours; runs on NHWC."""

    def __init__(self, conv: Conv, case: Case) -> None:
        self.conv, self.case, self.dtype = conv, case, TORCH_DTYPE[case.dtype]
        self.bias = conv.bias.to(case.device, self.dtype)
        self.device = self.bias.device.index or 0
        self.ways = {way.name: way for way in ways(conv, case.batch, self.dtype)}
        self.weights = {
            name: [compress(matrix.to(case.device)) for matrix in matrices(conv, way)]
            for name, way in self.ways.items()
        }
        self.chosen = Choice(next(iter(self.ways)), Algorithm(0))
        self.times: dict[str, float] = {}  # of all choices that ran, in milliseconds
        self.crashed: Sequence[str] = ()  # choices that ended a process
        self.untried: Sequence[str] = ()  # whose algorithm ended one on another layer or way
        self._plans: dict[str, _Plans] = {}

    def choices(self, way: str) -> list[Choice]:
        """Every algorithm of a way; where results are few, with K cut too."""
        plans = self._plan(way)
        few = self.ways[way].problem.rows * self.ways[way].rows < _FEW * _TILE
        splits = (1, *_SPLITS) if few and plans.last.cuts else (1,)
        count = min(plan.algorithms for plan in plans if plan is not None)
        return [Choice(way, Algorithm(n, split)) for n in range(count) for split in splits]

    def take(self, times: dict[str, float], crashed: Sequence[str], untried: Sequence[str]) -> None:
        """Run by the fastest of the timed choices from now on, and let go of all other ways."""
        self.times, self.crashed, self.untried = times, crashed, untried
        self.chosen = parse(min(times, key=times.__getitem__))
        self.weights = {self.chosen.way: self.weights[self.chosen.way]}
        self._plans = {self.chosen.way: self._plan(self.chosen.way)}

    def run(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """The fused convolution by the chosen algorithm; channels_last in and out."""
        return self.run_with(self.chosen, x, residual)

    def run_with(self, choice: Choice, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """The same by a way and an algorithm of the caller's choice."""
        way = self.ways[choice.way]
        x = nhwc(x, self.dtype)
        matrix = x if way.windows is None else side_by_side(x, way.windows)
        channels, height, width = self.conv.output_size
        pixels = x.shape[0] * height * width
        out = torch.empty(way.rows, channels, dtype=self.dtype, device=x.device)
        added = None
        if residual is not None:
            added = nhwc(residual, self.dtype)
            if way.rows > pixels:  # the product reads as many pixels as it writes
                out[:pixels] = added.view(pixels, channels)
                added = out
        plans, flat = self._plan(way.name), matrix.view(-1)
        for i, weights in enumerate(self.weights[way.name]):
            last = i == way.products - 1
            plan = plans.last if last or plans.first is None else plans.first
            plan.run(choice.algorithm, weights, flat[i * way.next :], out, added)
            added = out
        return out[:pixels].view(x.shape[0], height, width, channels).permute(0, 3, 1, 2)

    def _plan(self, name: str) -> _Plans:
        if name not in self._plans:
            way, last = self.ways[name], _Last(self.conv.bias, self.conv.activation)
            first = _plan_of(way.problem, self.bias.device) if way.products > 1 else None
            self._plans[name] = _Plans(first, _plan_of(way.problem, self.bias.device, last))
        return self._plans[name]

    @property
    def bytes(self) -> int:
        """Compressed weights of the chosen way, and the bias."""
        stored = (*self.weights[self.chosen.way], self.bias)
        return sum(t.numel() * t.element_size() for t in stored)

    @property
    def workspace_bytes(self) -> int:
        """What the chosen way takes beside the result: windows side by side, and the library's."""
        way, algorithm = self.ways[self.chosen.way], self.chosen.algorithm
        laid = 0 if way.windows is None else way.windows.rows * way.problem.inner
        own = self._plan(way.name).last.workspace_bytes(algorithm)
        return laid * self.dtype.itemsize + own

    @property
    def label(self) -> str:
        """A short line for the records: what was chosen, and everything tried with its time."""
        tried = " ".join(f"{name}:{1e3 * ms:.1f}us" for name, ms in self.times.items())
        label = f"cuSPARSELt {self.chosen}; tried {tried}"
        if self.crashed:
            label += f"; crashed {', '.join(self.crashed)}"
        if self.untried:
            label += f"; crashed on another layer or way, not tried {', '.join(self.untried)}"
        return label


def nhwc(x: Tensor, dtype: torch.dtype) -> Tensor:
    """An NCHW tensor of any strides as contiguous NHWC, at an address that copies take."""
    found = x.to(dtype).permute(0, 2, 3, 1).contiguous()
    return found if found.data_ptr() % 16 == 0 else found.clone()

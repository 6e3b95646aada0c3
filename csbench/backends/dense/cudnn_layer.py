"""`cudnn` in one memory layout: a layer by its fastest algorithm, a network of such layers."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import partial

from torch import Tensor

from csbench.backends.chain import chain
from csbench.backends.dense.algorithms import (
    FORMATS,
    TORCH_DTYPE,
    UNFOLDED,
    Algorithm,
    DenseConv,
    Layout,
    precision,
    sample,
    unfolded_bytes,
)
from csbench.backends.dense.placements import ranking
from csbench.core.case import Case
from csbench.graph.program import Conv, Program
from csbench.kernels import search

ALTERNATIVES = 3  # of each layer's algorithms alone, tried again in the network
MOST_UNFOLDED = 2**26  # bytes of copied windows; far beyond the caches a copy cannot pay

_settled: dict[Hashable, dict[Hashable, int]] = {}  # what is taken in each network, in this process


class Layer:
    """One convolution between activations of one layout, by one of its algorithms.

    `chosen` holds the algorithm for every layer of the same key, the fastest at first; `known` is
    what an earlier search came to, and saves this one. `taken` holds, by key and algorithm, which
    of its placements runs: the number in the order of placements.ranking.
    """

    def __init__(
        self, conv: Conv, case: Case, layout: Layout, known: str | None = None,
        chosen: dict[Hashable, str] | None = None, taken: dict[Hashable, int] | None = None,
    ) -> None:  # fmt: skip
        self.conv, self.case, self.layout = conv, case, layout
        self.key = (*key_of(conv, case), layout)
        own = DenseConv(conv, case.dtype, case.device, layout)
        self.bytes = own.weight.numel() * own.weight.element_size()
        placed = {f"{name} {layout}": a for name, a in own.algorithms().items()}
        if tuple(conv.weight.shape[2:]) != (1, 1):
            other: Layout = "NCHW" if layout == "NHWC" else "NHWC"
            turned = DenseConv(conv, case.dtype, case.device, other)
            for name, algorithms in turned.algorithms().items():
                placed[f"{name} {other} turned"] = [
                    partial(_turned, algorithm, layout, other) for algorithm in algorithms
                ]
        if unfolded_bytes(conv, case) > MOST_UNFOLDED:
            placed = {n: a for n, a in placed.items() if UNFOLDED not in n}
        x, residual = sample(conv, case, layout)
        with precision(case.dtype):
            self.algorithms: dict[str, list[Algorithm]] = {}
            for name, algorithms in placed.items():
                if known in (None, name):
                    asked = [partial(a, x, residual) for a in algorithms]
                    order = ranking(asked, (self.key, name))
                    self.algorithms[name] = [algorithms[n] for n in order]
            runs = {name: partial(a[0], x, residual) for name, a in self.algorithms.items()}
            self.ranked = search.ranking(runs, self.key) if known is None else [known]
        self._taken: dict[Hashable, int] = {} if taken is None else taken
        self._chosen: dict[Hashable, str] = {} if chosen is None else chosen
        self._chosen.setdefault(self.key, self.ranked[0])

    @property
    def chosen(self) -> str:
        return self._chosen[self.key]

    @property
    def label(self) -> str:
        return f"{'cuBLAS' if self.chosen.startswith('gemm') else 'cuDNN'} {self.chosen}"

    @property
    def plans(self) -> list[Algorithm]:
        """The chosen algorithm in every placement whose plan may be the fastest."""
        return self.algorithms[self.chosen]

    def settled(self) -> Layer:
        """Itself, holding no more weights than the chosen algorithm and its plan need."""
        self.algorithms = {self.chosen: [self._plan()]}
        self._taken = {}
        return self

    def run(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        x, residual = self.ready(x, residual)
        with precision(self.case.dtype):
            return self._plan()(x, residual)

    def _plan(self) -> Algorithm:
        return self.plans[self._taken.get((self.key, self.chosen), 0)]

    def ready(self, x: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Both in its precision and layout."""
        return self._ready(x), None if residual is None else self._ready(residual)

    def _ready(self, x: Tensor) -> Tensor:
        kind, memory = TORCH_DTYPE[self.case.dtype], FORMATS[self.layout]
        return x.to(kind).contiguous(memory_format=memory)


def _turned(
    algorithm: Algorithm, outside: Layout, inside: Layout, x: Tensor, residual: Tensor | None
) -> Tensor:
    memory = FORMATS[inside]
    if residual is not None:
        residual = residual.contiguous(memory_format=memory)
    y = algorithm(x.contiguous(memory_format=memory), residual)
    return y.contiguous(memory_format=FORMATS[outside])


class Network:
    """A program whose activations all keep one layout; `known` has an algorithm for each layer."""

    def __init__(
        self, program: Program, case: Case, layout: Layout, known: Sequence[str] | None = None
    ) -> None:
        self._chosen: dict[Hashable, str] = {}
        self._taken: dict[Hashable, int] = {}
        names: Sequence[str | None] = known or [None] * len(program.convolutions)
        self.layers = [
            Layer(conv, case, layout, name, self._chosen, self._taken)
            for conv, name in zip(program.convolutions, names, strict=True)
        ]
        self._case, self._format = case, FORMATS[layout]
        self._run = chain(program, [layer.run for layer in self.layers])

    def run(self, x: Tensor) -> Tensor:
        kind = TORCH_DTYPE[self._case.dtype]
        return self._run(x.to(kind).contiguous(memory_format=self._format))

    def choose_in_context(self, x: Tensor) -> None:
        """Choose again among the fastest algorithms of each layer, by the time of the network."""
        ranked: dict[Hashable, Sequence[str]]
        ranked = {layer.key: layer.ranked[:ALTERNATIVES] for layer in self.layers}
        key = ("cudnn in a network", [layer.key for layer in self.layers])
        search.in_context(partial(self.run, x), self._chosen, ranked, key)

    def choose_plans(self, x: Tensor) -> None:
        """Choose again among the plans that cuDNN found for each layer, by the time of the network.

        Once in a process: plans last no longer.
        """
        layers = {(layer.key, layer.chosen): layer for layer in self.layers}
        if (network := tuple(layers)) not in _settled:
            several: dict[Hashable, Sequence[int]] = {
                key: range(len(layer.plans)) for key, layer in layers.items() if layer.plans[1:]
            }
            self._taken.update(dict.fromkeys(several, 0))
            if several:
                search.in_context(partial(self.run, x), self._taken, several, key=None)
            _settled[network] = dict(self._taken)
        self._taken.update(_settled[network])

    def settle(self) -> None:
        """Let go of the weights that the chosen algorithms and plans do not need."""
        for layer in self.layers:
            layer.settled()


def key_of(conv: Conv, case: Case) -> tuple[Hashable, ...]:
    """Everything that decides which algorithm of a layer is fastest."""
    shape = (
        tuple(conv.weight.shape), conv.stride, conv.padding, conv.dilation, conv.groups,
        conv.input_size,
    )  # fmt: skip
    return (
        "cudnn, several searches", case.dtype, case.batch, shape, conv.activation, conv.residual,
        bool(conv.bias.any()),
    )  # fmt: skip

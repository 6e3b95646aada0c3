"""Two layers that read the same value in one launch, as a block's reduction and its projection do.

Each fills the device for a moment alone; together they wait for their input once.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property, partial

from csbench.backends.cs.latency_plan import ALTERNATIVES, Prepared
from csbench.kernels import nvrtc, search
from csbench.kernels.latency import launch
from csbench.kernels.latency.io import Planes

APART = "two launches"


@dataclass(frozen=True, eq=False)
class Pair:
    """Two prepared layers whose input is the same planes, and whose results are planes."""

    layers: tuple[Prepared, Prepared]

    @cached_property
    def ways(self) -> dict[str, tuple[str, str]]:
        """The names of two plans that one kernel can run, by a name for both."""
        first, second = (layer.ways for layer in self.layers)
        return {
            f"{a} with {b}": (a, b)
            for a in first
            for b in second
            if first[a].tile == second[b].tile and first[a].cluster == second[b].cluster == 1
        }

    @property
    def signature(self) -> tuple[Hashable, ...]:
        """Everything that decides the time."""
        return "pair", *(layer.signature for layer in self.layers)

    def plans(self, name: str) -> dict[Prepared, str]:
        """Each layer's plan under one way, or in launches of their own."""
        chosen = self._apart if name == APART else self.ways[name]
        return dict(zip(self.layers, chosen, strict=True))

    @cached_property
    def _apart(self) -> tuple[str, str]:
        first, second = (layer.ranked()[0] for layer in self.layers)
        return first, second

    def other(self, layer: Prepared) -> Prepared:
        """The one that it shares a launch with."""
        first, second = self.layers
        return second if layer is first else first

    def ranked(self) -> list[str]:
        """The ways from fast to slow, APART among them, timed alone on random activations."""
        x = self.layers[0].random_input()
        runs = {name: partial(self.launch, name, x) for name in (*self.ways, APART)}
        first = self.layers[0]
        tiles = (first.ways[a] for a, _ in self.ways.values())
        options = (launch.kernel_options(p, first.split, first.layer.m, False, True) for p in tiles)
        jobs = [("latency/conv.cu", option) for option in options]
        key = ("cs latency pair", nvrtc.digest(*first.sources), *self.signature)
        return search.ranking(runs, key, partial(nvrtc.compile_all, jobs))

    def alternatives(self) -> list[str]:
        """The ways worth trying in a network: the fastest alone, and APART."""
        names = self.ranked()
        return [n for i, n in enumerate(names) if i < ALTERNATIVES or n == APART]

    def keep(self, *names: str) -> None:
        """Let go of what other ways hold on the device."""
        for layer in self.layers:
            layer.keep(*(self.plans(name)[layer] for name in names))

    def launch(self, name: str, x: Planes) -> tuple[Planes, Planes]:
        """Queue both on torch's current stream."""
        chosen = self.plans(name)
        first, second = (layer.convolution(chosen[layer]) for layer in self.layers)
        outs = self._output(0), self._output(1)
        if name == APART:
            first.launch(x, outs[0])
            second.launch(x, outs[1])
        else:
            launch.launch_pair(first, second, x, outs)
        return outs

    def _output(self, index: int) -> Planes:
        out = self.layers[index].output()
        assert isinstance(out, Planes)
        return out

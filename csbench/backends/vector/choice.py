"""Plans of a network's layers, chosen by the time of the whole network."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from csbench.backends.vector.layer import Layer
from csbench.kernels import search
from csbench.kernels.gather.layout import Activation

ALTERNATIVES = 3  # of each layer's plans alone, tried again in the network


class Choice:
    """Layers of equal signature share a plan; until settle() it may be another one at any call."""

    def __init__(self) -> None:
        self.ranked: dict[Hashable, list[str]] = {}
        self.chosen: dict[Hashable, str] = {}
        self._layers: list[tuple[Layer, Hashable]] = []

    def add(self, layer: Layer) -> Callable[..., Activation]:
        """What runs the layer by the plan that is chosen at that moment."""
        signature, plans = layer.signature, layer.plans
        if signature not in self.ranked:
            self.ranked[signature] = layer.ranked()[:ALTERNATIVES]
            self.chosen[signature] = self.ranked[signature][0]
            layer.weights.drop_all_but(plans[name] for name in self.ranked[signature])
        self._layers.append((layer, signature))

        def run(x: Activation, residual: Activation | None = None) -> Activation:
            return layer.run_with(plans[self.chosen[signature]], x, residual)

        return run

    def settle(self, network: search.Run, key: object) -> None:
        """Choose by the time of `network`, remembered under `key`; drop what is not chosen."""
        search.in_context(network, self.chosen, self.ranked, key)
        for layer, signature in self._layers:
            layer.settle(self.chosen[signature])

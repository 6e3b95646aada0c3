"""Which way and which algorithm of cuSPARSELt a layer takes: all are timed, in another process."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec
import torch
from msgspec.structs import replace

from csbench.backends.base import TORCH_DTYPE
from csbench.backends.nm.cusparselt_layer import Layer
from csbench.backends.nm.cusparselt_ways import Way
from csbench.core.case import Case
from csbench.errors import BackendError
from csbench.graph.program import Activation, Conv
from csbench.kernels import nvrtc, search
from csbench.kernels.cusparselt import library
from csbench.kernels.cusparselt.trial import Lost, Run, Trials, serve

Pair = tuple[int, int]
Sizes = tuple[int, int, int]

_ONE = "this algorithm"


class Wanted(msgspec.Struct):
    """A layer without its weights, and the way whose algorithms are to be timed."""

    case: Case
    weight: tuple[int, int, int, int]
    stride: Pair
    padding: Pair
    dilation: Pair
    activation: Activation
    residual: bool
    input_size: Sizes
    output_size: Sizes
    way: str

    def conv(self) -> Conv:
        """The layer with random weights, of which every second channel is kept."""
        weight = torch.randn(self.weight)
        weight[:, 1::2] = 0
        return Conv(
            "layer", weight, torch.randn(self.weight[0]), self.stride, self.padding,
            self.dilation, 1, self.activation, self.residual, self.input_size, self.output_size,
        )  # fmt: skip


@functools.cache
def trials() -> Trials:
    """The process for choose(), one for all layers: it takes seconds to start."""
    return Trials(f"{__name__}:main")


def choose(layer: Layer, trials: Trials) -> None:
    """Take the fastest way and algorithm on random activations; remembered on disk."""
    conv, version = layer.conv, library.version(layer.device)
    key = (
        "cusparselt", nvrtc.digest("cusparselt/windows.cu"), tuple(layer.ways.values()),
        tuple(conv.weight.shape), conv.activation, conv.residual, version,
        "what crashed here and what elsewhere",
    )  # fmt: skip
    found: dict[str, Any] = search.remembered(key, lambda: _tried(layer, trials, version))
    layer.take(found["times"], found["crashed"], found["untried"])


def _tried(layer: Layer, trials: Trials, version: int) -> dict[str, Any]:
    """All algorithms of all ways; a way that the library refuses leaves the others."""
    times: dict[str, float] = {}
    crashed: list[str] = []
    untried: list[str] = []
    why = ""
    for way in layer.ways.values():
        try:
            fatal, here = _fatal(layer, way, trials, version)
            found = trials.tried(_wanted(layer, way), skip=fatal)
        except BackendError as error:
            why = str(error)
            continue
        times |= found.times
        (crashed if here else untried).extend(fatal)
        crashed += found.crashed
        why = found.why or why
    if not times:
        why = why or f"{len(crashed) + len(untried)} algorithms crash"
        raise BackendError(f"cuSPARSELt refuses {layer.conv.describe()}: {why}")
    return {"times": times, "crashed": crashed, "untried": untried}


def _fatal(layer: Layer, way: Way, trials: Trials, version: int) -> tuple[list[str], bool]:
    """What ended a process on the first layer that is numbered alike, and whether this is it.

    Each costs a second there.
    """
    conv = layer.conv
    alike = (version, layer.dtype, way.problem.images > 1)
    where = repr((way, tuple(conv.weight.shape), conv.activation, conv.residual))

    def crashes() -> dict[str, Any]:
        crashed = trials.tried(_wanted(layer, way)).crashed
        return {"where": where, "numbers": [name.rpartition(" ")[2] for name in crashed]}

    found = search.remembered(("cusparselt crashes, and where", *alike), crashes)
    return [f"{way.name} {number}" for number in found["numbers"]], found["where"] == where


def _wanted(layer: Layer, way: Way) -> object:
    c = layer.conv
    cout, cin, kh, kw = c.weight.shape
    case = replace(layer.case, device=f"cuda:{layer.device}")
    return msgspec.to_builtins(
        Wanted(
            case, (cout, cin, kh, kw), c.stride, c.padding, c.dilation, c.activation,
            c.residual, c.input_size, c.output_size, way.name,
        )
    )  # fmt: skip


def main() -> None:
    """The other process."""
    serve(_candidates, _milliseconds)


def _candidates(request: object) -> Mapping[str, Run]:
    wanted = msgspec.convert(request, Wanted)
    torch.cuda.set_device(wanted.case.device)
    layer = Layer(wanted.conv(), wanted.case)
    inputs = [_random(layer, wanted.input_size)]
    if wanted.residual:
        inputs.append(_random(layer, wanted.output_size))
    torch.cuda.synchronize()
    return {str(c): partial(layer.run_with, c, *inputs) for c in layer.choices(wanted.way)}


def _random(layer: Layer, size: Sizes) -> torch.Tensor:
    channels, height, width = size
    x = torch.randn(layer.case.batch, height, width, channels, device=layer.case.device)
    return x.to(TORCH_DTYPE[layer.case.dtype]).permute(0, 3, 1, 2)


def _milliseconds(run: Run) -> float:
    try:
        return search.measure({_ONE: run})[_ONE]
    except RuntimeError as error:
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            raise Lost(str(error)) from error
        raise

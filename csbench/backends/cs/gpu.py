"""`cs` and `nm` on a GPU: two sets of sparse tensor core kernels, the faster one by measurement.

`latency` cuts the K axis and keeps weights compressed, `throughput` cuts pixels and channels only.
Up to batch 4 the first is taken and above 32 the second, each where it can run; in between both
are timed once, and the choice is kept on disk.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from csbench.backends.base import TORCH_DTYPE, LoweredConv, LoweredNetwork
from csbench.backends.cs import latency, throughput
from csbench.core.case import Case
from csbench.errors import BackendError
from csbench.graph.program import Conv, Program
from csbench.kernels import nvrtc, search

_WAYS: dict[str, ModuleType] = {"latency": latency, "throughput": throughput}
_SOURCES = (  # and the tiles that they are compiled for
    *(f"latency/{name}" for name in ("conv.cu", "io.cu", "plan.py")),
    *(f"wgmma/{name}.cu" for name in ("conv", "halo", "io", "stem", "stem_pool")), "wgmma/tile.py",
)  # fmt: skip
_SMALL, _LARGE = 4, 32  # batches that need no measurement: at most the one, more than the other

_Maker = Callable[[], LoweredConv | LoweredNetwork | None]


def missing() -> str | None:
    """What this machine lacks, and how to get it; None when either set of kernels is ready."""
    problems = [way.missing() for way in _WAYS.values()]
    return None if None in problems else problems[0]


def why_not(conv: Conv, case: Case) -> str | None:
    """One sentence: the reason why neither set of kernels can run this layer."""
    reasons = [way.why_not(conv, case) for way in _ready(case).values()]
    return None if None in reasons else (reasons or [missing()])[-1]


def lower(conv: Conv, case: Case) -> LoweredConv:
    """The layer by the faster kernels."""
    ready = {n: way for n, way in _ready(case).items() if way.why_not(conv, case) is None}
    makers = {name: functools.partial(way.lower, conv, case) for name, way in _likely(ready, case)}
    inputs = [_random(case, conv.input_size)]
    if conv.residual:
        inputs.append(_random(case, conv.output_size))
    layer = (
        tuple(conv.weight.shape), conv.stride, conv.padding, conv.dilation, conv.input_size,
        conv.activation, conv.residual, str(conv.pattern),
    )  # fmt: skip
    made: LoweredConv | None = _fastest(
        makers, inputs, ("cs layer inside", layer, case.dtype, case.batch)
    )
    if made is None:
        raise BackendError(f"no sparse tensor core kernel runs {conv.describe()}")
    return made


def lower_network(program: Program, case: Case) -> LoweredNetwork | None:
    """The network by the faster kernels; None where neither takes all of it, or no zeros of it.

    A network without zeros, at any batch, is their own dense one.
    """
    carrying = (conv for conv in program.convolutions if conv.pattern is not None)
    pruned = [conv for conv in carrying if (conv.weight == 0).any()]
    if pruned and all(why_not(conv, case) is not None for conv in pruned):
        return None
    likely = _likely(_ready(case), case)
    makers = {name: functools.partial(way.lower_network, program, case) for name, way in likely}
    layers = [(tuple(c.weight.shape), c.input_size, str(c.pattern)) for c in program.convolutions]
    key = ("cs network", program.model, layers, case.dtype, case.batch)
    made: LoweredNetwork | None = _fastest(makers, [_random(case, program.input_size)], key)
    others = (way for name, way in _ready(case).items() if name not in makers)
    return made or next(filter(None, (way.lower_network(program, case) for way in others)), None)


def _ready(case: Case) -> dict[str, ModuleType]:
    """The sets of kernels that this machine can run."""
    return {name: way for name, way in _WAYS.items() if way.missing() is None}


def _likely(ready: dict[str, ModuleType], case: Case) -> list[tuple[str, ModuleType]]:
    """Those among them that can be the faster one at this batch."""
    best = "latency" if case.batch <= _SMALL else "throughput" if case.batch > _LARGE else None
    return [(n, way) for n, way in ready.items() if best in (None, n) or best not in ready]


def _fastest(makers: Mapping[str, _Maker], inputs: list[Tensor], key: Hashable) -> Any:
    """What the fastest maker makes; all are made and timed unless the answer is known."""
    made = {name: functools.cache(make) for name, make in makers.items()}

    @functools.cache
    def ready(name: str) -> Callable[[], object]:
        try:
            lowered = made[name]()
        except BackendError as error:  # to the search, a candidate that does not run
            raise RuntimeError(str(error)) from error
        if lowered is None:
            raise RuntimeError(f"the {name} kernels do not take it")
        if isinstance(lowered, LoweredConv) and lowered.inside is not None:
            return functools.partial(lowered.inside.run, *lowered.inside.enter(*inputs))
        return functools.partial(lowered, *inputs)

    def run(name: str) -> object:
        return ready(name)()

    runs = {name: functools.partial(run, name) for name in made}
    try:
        chosen = search.fastest(runs, (key, nvrtc.digest(*_SOURCES)))
    except RuntimeError:  # none of them takes it
        return None
    return made[chosen]()


def _random(case: Case, size: tuple[int, int, int]) -> Tensor:
    x = torch.randn(case.batch, *size, device=case.device)
    return x.to(TORCH_DTYPE[case.dtype])

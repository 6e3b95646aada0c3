"""Choosing the fastest way on the device at hand: timed through CUDA graphs, kept on disk."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from statistics import median
from typing import Any, TypeVar

import torch

from csbench.core.cache import cache_dir, write_atomically
from csbench.errors import BackendError
from csbench.kernels.graphs import forget_failed_capture

Run = Callable[[], object]
K = TypeVar("K", bound=Hashable)
V = TypeVar("V", str, int)

LONG_MS = 4.0  # above this the layers fill the device, and what surrounds them hardly matters
CALLS = 5  # in one graph, so that the launch of the graph itself weighs little
BETTER = 0.998  # of a network's time: what another choice must reach, two times
SECONDS = 20.0  # for the alternatives within one network, all rounds together
TURNS = 5  # of a network as it was first and as it was found
_RULE = "rounds until no choice changes, then by turns"  # of in_context, in the key of its answers
REFUSALS = (RuntimeError, BackendError)  # by torch or a library, by the driver
_streams: dict[int, torch.cuda.Stream] = {}
_answers: dict[str, Any] = {}  # what this process has looked up or measured, by digest


def fastest(
    candidates: Mapping[str, Run], key: object, prepare: Callable[[], object] | None = None
) -> str:
    """The name of the candidate that takes least time; see ranking()."""
    return ranking(candidates, key, prepare)[0]


def ranking(
    candidates: Mapping[str, Run], key: object, prepare: Callable[[], object] | None = None
) -> list[str]:
    """The names from fast to slow; remembered under `key`, which names what decides the order.

    `prepare` is called before they are measured, for example to compile them side by side. A
    candidate that fails is left out; RuntimeError when all do.
    """
    names = sorted(candidates)
    if len(names) == 1:
        return names

    def compute() -> dict[str, float]:
        if prepare is not None:
            prepare()
        return measure(candidates)

    times: dict[str, float] = remembered((key, names), compute)
    return sorted(times, key=times.__getitem__)


def in_context(
    network: Run, chosen: dict[K, V], alternatives: Mapping[K, Sequence[V]], key: object
) -> None:
    """Improve `chosen` in place, one entry at a time, by the time of the whole network.

    A layer alone finds its weights and its code in the caches and overlaps with itself; in a
    network it does not, and another choice may be better there. `network` reads `chosen` when run.
    Choices depend on each other, so this goes on until a whole round changes none, or for SECONDS.
    Some of many tries are lucky; so the outcome has to be faster, by turns, than what was there
    first. What runs, but no graph holds, keeps its choices. The outcome is remembered under `key`;
    None: it is not, because it may be another in the next process.
    """
    first = dict(chosen)

    def compute() -> list[V]:
        end = time.monotonic() + SECONDS
        _network_ms(network)  # the first one in a process can be 5 % too fast (cudnn.md)
        best, before = _network_ms(network), None
        while chosen != before:
            before = dict(chosen)
            for layer, names in alternatives.items():
                for name in names:
                    if best <= LONG_MS and name != chosen[layer] and time.monotonic() < end:
                        best = _tried(network, chosen, layer, name, best)
        if chosen != first and not _ahead(network, chosen, first):
            chosen.update(first)
        return [chosen[layer] for layer in alternatives]

    listed = [[repr(layer), chosen[layer], list(names)] for layer, names in alternatives.items()]
    try:
        found = compute() if key is None else remembered((_RULE, key, listed), compute)
    except REFUSALS:
        chosen.update(first)
        network()  # an error that is not the graph's comes again
        return
    for layer, name in zip(alternatives, found, strict=True):
        chosen[layer] = name


def _tried(network: Run, chosen: dict[K, V], layer: K, name: V, best: float) -> float:
    """Take `name` for a layer if the network then takes less than `best`; its time afterwards."""
    before, chosen[layer] = chosen[layer], name
    try:
        found = _network_ms(network)
        if found < BETTER * best:
            found = max(found, _network_ms(network))  # one reading may be luck
    except REFUSALS:
        found = math.inf
    if found < BETTER * best:
        return found
    chosen[layer] = before
    return best


def _ahead(network: Run, chosen: dict[K, V], first: dict[K, V]) -> bool:
    """Whether the network takes less time as `chosen` than as `first`, by turns."""
    found = dict(chosen)
    was: list[float] = []
    now: list[float] = []
    for _ in range(TURNS):
        for choices, readings in ((first, was), (found, now)):
            chosen.update(choices)
            readings.append(_network_ms(network))
    return median(now) < median(was)


def remembered(key: object, compute: Callable[[], Any]) -> Any:
    """compute(), or what it gave before for this key on this device and these libraries (JSON)."""
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    text = repr((key, torch.cuda.get_device_name(), torch.__version__, cudnn))
    digest = hashlib.sha256(text.encode()).hexdigest()[:32]
    if digest not in _answers:
        path = cache_dir() / "search" / f"{digest}.json"
        if path.exists():
            _answers[digest] = json.loads(path.read_text())["answer"]
        else:
            _answers[digest] = compute()
            record = {"key": repr(key), "answer": _answers[digest]}
            write_atomically(path, json.dumps(record, indent=1).encode())
    return _answers[digest]


def measure(candidates: Mapping[str, Run], min_ms: float = 0.25) -> dict[str, float]:
    """Milliseconds of one call of each candidate that runs, the best ones timed for longer."""
    stream, pool = _stream(), torch.cuda.graph_pool_handle()
    graphs: dict[str, torch.cuda.CUDAGraph] = {}  # all alive, so that they share one pool
    failures: list[str] = []
    for name, run in candidates.items():
        try:
            graphs[name] = _capture(run, stream, pool, CALLS)
        except REFUSALS as error:  # an algorithm that this shape does not have
            failures.append(f"{name}: {str(error).partition(chr(10))[0]}")
    if not graphs:
        raise RuntimeError(f"no candidate runs: {'; '.join(failures)}")
    times = {name: _milliseconds(graph, stream, min_ms) for name, graph in graphs.items()}
    limit = 1.15 * min(times.values())
    for name in [n for n, t in times.items() if t <= limit]:
        times[name] = _milliseconds(graphs[name], stream, 4 * min_ms)
    graphs.clear()
    torch.cuda.empty_cache()
    return {name: ms / CALLS for name, ms in times.items()}


def _stream() -> torch.cuda.Stream:
    """The stream of all searches: torch keeps a workspace of cuBLAS for each that products ran on
    (32 MiB on Hopper)."""
    device = torch.cuda.current_device()
    if device not in _streams:
        _streams[device] = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    return _streams[device]


def _network_ms(run: Run) -> float:
    stream, pool = _stream(), torch.cuda.graph_pool_handle()
    graph = _capture(run, stream, pool, 1)
    ms = _milliseconds(graph, stream, 3.0)
    graph.reset()
    torch.cuda.empty_cache()  # a graph's memory is its own until then
    return ms


def _capture(run: Run, stream: torch.cuda.Stream, pool: Any, calls: int) -> torch.cuda.CUDAGraph:
    with torch.cuda.stream(stream):
        run()  # cuDNN's own search and lazy loading happen here
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            graph.capture_begin(pool=pool)
            try:
                for _ in range(calls):
                    run()
            finally:
                graph.capture_end()
        except REFUSALS:
            forget_failed_capture()
            raise
        graph.replay()
    return graph


def _milliseconds(graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream, min_ms: float) -> float:
    """Median time of one replay."""
    with torch.cuda.stream(stream):
        once = _replay(graph, stream, 1)
        replays = max(1, min(50, round(min_ms / max(once, 1e-3))))
        return median(_replay(graph, stream, replays) for _ in range(3)) / replays


def _replay(graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream, replays: int) -> float:
    start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    start.record(stream)
    for _ in range(replays):
        graph.replay()
    end.record(stream)
    end.synchronize()
    return float(start.elapsed_time(end))

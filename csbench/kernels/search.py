"""Choosing the fastest way on the device at hand: timed through CUDA graphs, kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Mapping
from statistics import median
from typing import Any

import torch

from csbench.kernels.cache import cache_dir, write_atomically

Run = Callable[[], object]

_chosen: dict[str, str] = {}  # what this process has looked up or measured, by key


def fastest(candidates: Mapping[str, Run], key: Hashable) -> str:
    """The name of the candidate that takes least time; remembered under `key`.

    `key` must name everything that decides the answer but the device and the versions of torch and
    cuDNN, which are added. A candidate that fails is left out; RuntimeError when all do.
    """
    if len(candidates) == 1:
        return next(iter(candidates))
    digest = _digest(key, sorted(candidates))
    if digest not in _chosen:
        path = cache_dir() / "search" / f"{digest}.json"
        if path.exists():
            _chosen[digest] = json.loads(path.read_text())["chosen"]
        else:
            times = measure(candidates)
            _chosen[digest] = min(times, key=times.__getitem__)
            record = {"key": repr(key), "chosen": _chosen[digest], "milliseconds": times}
            write_atomically(path, json.dumps(record, indent=1).encode())
    return _chosen[digest]


def measure(candidates: Mapping[str, Run], min_ms: float = 0.25) -> dict[str, float]:
    """Milliseconds of one call of each candidate that runs, the best ones timed for longer."""
    stream, pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()  # type: ignore[no-untyped-call]
    graphs: dict[str, torch.cuda.CUDAGraph] = {}  # all alive, so that they share one pool
    failures: list[str] = []
    for name, run in candidates.items():
        try:
            graphs[name] = _capture(run, stream, pool)
        except RuntimeError as error:  # an algorithm that this shape does not have
            failures.append(f"{name}: {str(error).splitlines()[0]}")
    if not graphs:
        raise RuntimeError(f"no candidate runs: {'; '.join(failures)}")
    times = {name: _milliseconds(graph, stream, min_ms) for name, graph in graphs.items()}
    limit = 1.15 * min(times.values())
    for name in [n for n, t in times.items() if t <= limit]:
        times[name] = _milliseconds(graphs[name], stream, 4 * min_ms)
    graphs.clear()
    torch.cuda.empty_cache()
    return times


CALLS = 5  # in one graph, so that the launch of the graph itself weighs little


def _capture(run: Run, stream: torch.cuda.Stream, pool: Any) -> torch.cuda.CUDAGraph:
    with torch.cuda.stream(stream):
        run()  # cuDNN's own search and lazy loading happen here
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(pool=pool)
        try:
            for _ in range(CALLS):
                run()
        finally:
            graph.capture_end()
        graph.replay()
    return graph


def _milliseconds(graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream, min_ms: float) -> float:
    """Median time of one call in the graph."""
    with torch.cuda.stream(stream):
        once = _replay(graph, stream, 1)
        replays = max(1, min(50, round(min_ms / max(once, 1e-3))))
        return median(_replay(graph, stream, replays) for _ in range(3)) / (CALLS * replays)


def _replay(graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream, replays: int) -> float:
    start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    start.record(stream)
    for _ in range(replays):
        graph.replay()
    end.record(stream)
    end.synchronize()
    return float(start.elapsed_time(end))


def _digest(key: Hashable, names: list[str]) -> str:
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    text = repr((key, names, torch.cuda.get_device_name(), torch.__version__, cudnn))
    return hashlib.sha256(text.encode()).hexdigest()[:32]

"""Compare csbench's GPU clock with independent timers on the same replays: a script, no test.

    python tests/gpu/trust.py

A row is a whole ResNet50 or one of its layers on one backend. Its time by csbench.bench.clocks
stands beside the one by torch.utils.benchmark (host clock around synchronised batches of replays,
caches as they are) and the one by triton.testing.do_bench (events around each replay, caches
flushed before it); where `pip install 'cuda-bench[cu13]'` was typed, also beside both of nvbench's.
The last row is a graph of one launch that does next to nothing: what the timers count beside the
work. MHz are the SM clock's medians while csbench and the host's clock measured: a GPU at its power
limit changes them. Exits with 1 where one of them differs by more than 2 % in another row.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from tabulate import tabulate
from torch.utils.benchmark import Timer
from triton.testing import do_bench

from csbench.backends import registry
from csbench.bench.capture import Replay
from csbench.bench.clocks import CudaClock
from csbench.bench.environment import full, open_nvml
from csbench.bench.flush import flusher
from csbench.bench.nvml import Nvml, Watch
from csbench.bench.sampling import SHORTEST_SAMPLE_MS, sample_alone
from csbench.bench.subject import Subject
from csbench.bench.weights import Library
from csbench.core.case import Case, CheckpointRef
from csbench.core.statistics import median

MOST_APART = 0.02
SUBJECTS = (
    ("cudnn", "dense", 0.0),
    ("cs", "cs:16", 0.9375),
    ("block-original", "block:32x32", 0.75),
)
LAYER = "layer3.1.conv2"
SAMPLES = 10  # of csbench's clock
ROUNDS = 5  # by turns of all timers but nvbench, so that a change of pace meets each of them
# nvbench is told what to launch in Python, which takes 0.03 ms: its batches of less say nothing.
LAUNCHED_MS = 0.05
# Of replays between two looks at the host's clock, which a synchronisation ends. As long as one of
# csbench's samples, and as many in all, so that both load the GPU alike.
BATCH_MS = SHORTEST_SAMPLE_MS


class Row(NamedTuple):
    """Milliseconds by each timer: csbench's, then another's, warm and cold."""

    what: tuple[str, str, str, str]  # subject, backend, precision, batch
    replay: Replay
    warm: float
    host: float
    cold: float
    flushed: float
    mhz: str
    judged: bool = True

    def worst(self) -> float:
        """The largest share by which two timers differ."""
        ratios = (self.host / self.warm, self.flushed / self.cold)
        return max(abs(ratio - 1) for ratio in ratios if not math.isnan(ratio))


def main() -> None:
    """Print a table for the two timers, and one for nvbench."""
    rows = list(_rows())
    env = full("cuda")
    print(
        f"{env['gpu']}, driver {env['driver']}, torch {env['torch']}, csbench {env['csbench']} "
        f"({env['commit']}); medians in ms\n"
    )
    worst = _print(rows, "host clock", "do_bench")
    if importlib.util.find_spec("cuda") and importlib.util.find_spec("cuda.bench"):
        print()
        worst = max(worst, _print(_by_nvbench(rows), "nvbench, batch", "nvbench, cold"))
    print(f"\nlargest difference {worst:.2%}, allowed {MOST_APART:.0%}")
    sys.exit(int(worst > MOST_APART))


def _print(rows: list[Row], warm: str, cold: str) -> float:
    """A table of csbench's times beside two others; the largest difference."""
    headers = ("subject", "backend", "precision", "batch", "mode", "csbench", warm, "ratio",
               "csbench, cold", cold, "ratio", "MHz")  # fmt: skip
    print(tabulate([_cells(row) for row in rows], headers, "github", disable_numparse=True))
    return max(row.worst() for row in rows if row.judged)


def _by_nvbench(rows: list[Row]) -> list[Row]:
    """The same replays by nvbench: the mean of batches, the median of cold runs."""
    from cuda import bench
    from cuda.bench.results import BenchmarkResult

    def register(name: str, replay: Replay) -> None:
        def measure(state: Any) -> None:
            def launch(what: Any) -> None:
                stream = torch.cuda.ExternalStream(what.get_stream().addressof())  # type: ignore[no-untyped-call]
                with torch.cuda.stream(stream):
                    replay()

            # So few that the queue of launches, which wait for the first, never fills up.
            state.set_batch_target_time(0.01)
            state.exec(launch)

        bench.register(measure).set_name(name)

    for number, row in enumerate(rows):
        register(f"row {number}", row.replay)
    with tempfile.TemporaryDirectory() as folder:
        bench.run_all_benchmarks(["trust", "--quiet", "--jsonbin", f"{folder}/found.json"])
        found = BenchmarkResult.from_json(f"{folder}/found.json")
        states = [found[f"row {number}"][0] for number in range(len(rows))]
        return [
            row._replace(
                host=_batch_ms(state) if row.warm > LAUNCHED_MS else math.nan,
                flushed=1e3 * state.center(median),
                mhz="",
            )
            for row, state in zip(rows, states, strict=True)
        ]


def _batch_ms(state: Any) -> float:
    return 1e3 * float(state.summaries["nv/batch/time/gpu/mean"].value)


@torch.inference_mode()
def _rows() -> Iterator[Row]:
    library, dense, gpu = Library(), registry.get("cudnn"), open_nvml()
    for layer in (None, LAYER):
        for name, pattern, sparsity in SUBJECTS:
            case = Case(
                task="infer" if layer is None else "layer", layer=layer, model="resnet50",
                pattern=pattern, sparsity=sparsity, backend=name, baseline="cudnn", device="cuda",
                checkpoint=CheckpointRef(seed=0), batch=1 if layer is None else 64,
                dtype="fp32" if layer is None else "fp16",
            )  # fmt: skip
            subject = Subject(library.sparse(case), case)
            replay = subject.replay(subject.lower(registry.get(name), dense, case), seed=0)
            how = f"{name} {100 * sparsity:g} %"
            what = (layer or case.model, how, case.dtype, str(case.batch))
            yield Row(what, replay, *_by_turns(replay, gpu))
    one = Replay(torch.neg, [(torch.zeros(1, device="cuda"),)])
    yield Row(("one number", "torch.neg", "fp32", "1"), one, *_by_turns(one, gpu), judged=False)


def _by_turns(replay: Replay, gpu: Nvml | None) -> tuple[float, float, float, float, str]:
    """Milliseconds by each timer and clocks, as Row has them: the median of its rounds."""
    flush, about = flusher("cuda"), median(sample_alone(CudaClock(), replay, SAMPLES))
    by_csbench, by_host = _Watched(gpu), _Watched(gpu)
    rounds = [
        (
            by_csbench(lambda: median(sample_alone(CudaClock(), replay, SAMPLES))),
            by_host(lambda: _host_ms(replay, about)),
            median(sample_alone(CudaClock(flush), replay, SAMPLES)),
            do_bench(replay, warmup=50, rep=100, return_mode="median"),
        )
        for _ in range(ROUNDS)
    ]
    warm, host, cold, flushed = (median(found) for found in zip(*rounds, strict=True))
    return warm, host, cold, flushed, f"{by_csbench.mhz()}, {by_host.mhz()}"


class _Watched:
    """Takes times, and the SM clock meanwhile."""

    def __init__(self, gpu: Nvml | None) -> None:
        self._gpu = gpu
        self._seen: list[float] = []

    def __call__(self, timed: Callable[[], float]) -> float:
        if self._gpu is None:
            return timed()
        with Watch(self._gpu) as watch:
            found = timed()
        self._seen += [reading.sm_mhz for reading in watch.readings]
        return found

    def mhz(self) -> str:
        return f"{median(self._seen):.0f}" if self._seen else "--"


def _host_ms(run: Callable[[], None], about_ms: float) -> float:
    count = math.ceil(BATCH_MS / about_ms)

    def batch() -> None:
        for _ in range(count):
            run()
        torch.cuda.synchronize()

    timer = Timer("batch()", globals={"batch": batch})
    enough = SAMPLES * BATCH_MS / 1e3
    return 1e3 * float(timer.blocked_autorange(min_run_time=enough).median) / count


def _cells(row: Row) -> tuple[str, ...]:
    numbers = (row.warm, row.host, row.host / row.warm, row.cold, row.flushed,
               row.flushed / row.cold)  # fmt: skip
    return (
        *row.what, row.replay.mode,
        *("--" if math.isnan(number) else f"{number:.4f}" for number in numbers),
        row.mhz,
    )  # fmt: skip


if __name__ == "__main__":
    main()

"""Compare csbench's GPU clock with two independent timers on the same replays: a script, no test.

    python tests/gpu/trust.py

A row is a whole ResNet50 or one of its layers on one backend. Its time by csbench.bench.clocks
stands beside the one by torch.utils.benchmark (host clock around synchronised batches of replays,
caches as they are) and the one by triton.testing.do_bench (events around each replay, caches
flushed before it). Exits with 1 where one of them differs by more than 2 %.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from tabulate import tabulate
from torch.utils.benchmark import Timer
from triton.testing import do_bench

from csbench.backends import registry
from csbench.bench.clocks import CudaClock
from csbench.bench.environment import full
from csbench.bench.flush import flusher
from csbench.bench.sampling import sample_alone
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
SAMPLES = 50  # of csbench's clock
BATCH_MS = 20.0  # of replays between two looks at the host's clock, which a synchronisation ends


class Row(NamedTuple):
    """Milliseconds by each timer."""

    case: Case
    mode: str
    warm: float
    host: float
    cold: float
    flushed: float

    def worst(self) -> float:
        return max(abs(self.host / self.warm - 1), abs(self.flushed / self.cold - 1))


def main() -> None:
    """Print the table."""
    rows = list(_rows())
    env = full("cuda")
    print(
        f"{env['gpu']}, driver {env['driver']}, torch {env['torch']}, csbench {env['csbench']} "
        f"({env['commit']}); medians in ms\n"
    )
    headers = ("subject", "backend", "precision", "batch", "mode", "csbench", "host clock", "ratio",
               "csbench, cold", "do_bench", "ratio")  # fmt: skip
    print(tabulate([_cells(row) for row in rows], headers, "github", disable_numparse=True))
    worst = max(row.worst() for row in rows)
    print(f"\nlargest difference {worst:.2%}, allowed {MOST_APART:.0%}")
    sys.exit(int(worst > MOST_APART))


@torch.inference_mode()
def _rows() -> Iterator[Row]:
    library, dense = Library(), registry.get("cudnn")
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
            warm = median(sample_alone(CudaClock(), replay, SAMPLES))
            cold = median(sample_alone(CudaClock(flusher("cuda")), replay, SAMPLES))
            flushed = do_bench(replay, warmup=100, rep=500, return_mode="median")
            yield Row(case, replay.mode, warm, _host_ms(replay, warm), cold, flushed)


def _host_ms(run: Callable[[], None], about_ms: float) -> float:
    count = math.ceil(BATCH_MS / about_ms)

    def batch() -> None:
        for _ in range(count):
            run()
        torch.cuda.synchronize()

    timer = Timer("batch()", globals={"batch": batch})
    return 1e3 * float(timer.blocked_autorange(min_run_time=0.5).median) / count


def _cells(row: Row) -> tuple[str, ...]:
    case = row.case
    return (
        case.layer or case.model, f"{case.backend} {100 * case.sparsity:g} %", case.dtype,
        str(case.batch), row.mode, f"{row.warm:.4f}", f"{row.host:.4f}",
        f"{row.host / row.warm:.4f}", f"{row.cold:.4f}", f"{row.flushed:.4f}",
        f"{row.flushed / row.cold:.4f}",
    )  # fmt: skip


if __name__ == "__main__":
    main()

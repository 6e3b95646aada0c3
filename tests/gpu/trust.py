"""Compare csbench's GPU clock with two independent timers on the same replay: not a test, a script.

    python tests/gpu/trust.py

Prints, for a whole ResNet50 and one of its layers, the time by csbench.bench.clocks, by
torch.utils.benchmark (host clock around synchronised batches of replays), and by
triton.testing.do_bench where triton is installed (which flushes the cache: compared with `cold`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.benchmark import Timer

from csbench.backends import registry
from csbench.bench.clocks import CudaClock
from csbench.bench.flush import flusher
from csbench.bench.sampling import sample_alone
from csbench.bench.subject import Subject
from csbench.bench.weights import Library
from csbench.core.case import Case, CheckpointRef
from csbench.core.statistics import median


def main() -> None:
    """A line a subject and timer: milliseconds, and the ratio to csbench's."""
    backend, library = registry.get("cudnn"), Library()
    for layer in (None, "layer3.1.conv2"):
        case = Case(
            task="infer" if layer is None else "layer", layer=layer, model="resnet50",
            pattern="dense", sparsity=0.0, backend="cudnn", baseline="cudnn", device="cuda",
            checkpoint=CheckpointRef(seed=0), batch=1 if layer is None else 64,
        )  # fmt: skip
        with torch.inference_mode():
            subject = Subject(library.dense(case), case)
            replay = subject.replay(subject.lower(backend, backend, case), seed=0)
            warm = median(sample_alone(CudaClock(), replay, 50))
            cold = median(sample_alone(CudaClock(flusher("cuda")), replay, 50))
            name = layer or "network"
            print(f"{name}: warm {warm:.4f} ms, cold {cold:.4f} ms, {replay.mode}")
            host = 1e3 * Timer("run()", globals={"run": _many(replay, 50)}).blocked_autorange(
                min_run_time=1.0
            ).median / 50  # fmt: skip
            print(f"{name}: host clock {host:.4f} ms, {host / warm:.4f} of warm")
            try:
                from triton.testing import do_bench
            except ImportError:
                continue
            flushed = do_bench(replay, warmup=100, rep=500, return_mode="median")
            print(f"{name}: triton {flushed:.4f} ms, {flushed / cold:.4f} of cold")


def _many(run: Callable[[], None], count: int) -> Callable[[], None]:
    def batch() -> None:
        for _ in range(count):
            run()
        torch.cuda.synchronize()

    return batch


if __name__ == "__main__":
    main()

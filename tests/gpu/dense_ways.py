"""The dense baseline beside what torch does without csbench: a script, no test.

    python tests/gpu/dense_ways.py [PRECISIONS [BATCHES]]

ResNet50, by default in fp32 and fp16 at batch 1, 64 and 256: by cudnn; the module as it stands, in
both layouts; and torch.compile's plain compile of it, in both. All are captured as CUDA graphs and
timed by turns, on two inputs. Not here: `inductor`, which also searches, for minutes (csbench infer
--backend inductor). Exits with 1 where another way is more than 1 % faster than cudnn.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor

from csbench import models
from csbench.backends.dense.algorithms import FORMATS, TORCH_DTYPE, precision
from csbench.backends.dense.cudnn import Cudnn
from csbench.backends.dense.inductor import PLAIN, lift_limits
from csbench.bench.capture import Replay
from csbench.bench.clocks import CudaClock
from csbench.bench.memory import let_go
from csbench.bench.sampling import sample_alone
from csbench.bench.weights import Library
from csbench.core.case import Case, CheckpointRef

MODEL, ROUNDS, SAMPLES, FASTER = "resnet50", 5, 5, 0.99
Way = Callable[[Tensor], Tensor]


@torch.no_grad()
def main(precisions: str = "fp32,fp16", batches: str = "1,64,256") -> None:
    """Print a table of all ways for each precision and batch, as soon as it is measured."""
    lift_limits()
    headers = ("precision", "batch", "way", "ms", "over cudnn")
    beaten = False
    for dtype in precisions.split(","):
        for batch in map(int, batches.split(",")):
            times = _times(dtype, batch)
            own = next(iter(times.values()))
            beaten = beaten or min(times.values()) < FASTER * own
            rows = [(dtype, batch, n, f"{ms:.4f}", f"{own / ms:.3f}") for n, ms in times.items()]
            print(tabulate(rows, headers, "github", disable_numparse=True), flush=True)
            let_go()
    sys.exit(int(beaten))


def _times(dtype: str, batch: int) -> dict[str, float]:
    """Milliseconds of each way that runs, the median of its rounds."""
    case = Case(
        model=MODEL, pattern="dense", sparsity=0.0, backend="cudnn", baseline="cudnn",
        device="cuda", dtype=dtype, batch=batch, checkpoint=CheckpointRef(seed=0),
    )  # fmt: skip
    inputs = [(torch.randn(batch, *case.input).to("cuda", TORCH_DTYPE[dtype]),) for _ in range(2)]
    replays = {name: Replay(run, inputs) for name, run in _ways(case)}
    clock = CudaClock()
    readings: dict[str, list[float]] = {name: [] for name in replays}
    for _ in range(ROUNDS):
        for name, replay in replays.items():
            readings[name].append(median(sample_alone(clock, replay, SAMPLES)))
    modes = {name: "" if replay.mode == "graph" else ", eager" for name, replay in replays.items()}
    return {name + modes[name]: median(found) for name, found in readings.items()}


def _ways(case: Case) -> Iterator[tuple[str, Way]]:
    yield "cudnn", Cudnn().lower_network(Library().dense(case).program, case).run
    module = models.build(MODEL, seed=0)
    models.calibrate(module, case.input, 0)
    for layout, memory in FORMATS.items():
        placed: Any = copy.deepcopy(module).to("cuda", TORCH_DTYPE[case.dtype]).eval()
        placed = placed.to(memory_format=memory)
        yield f"module {layout}", partial(_run, placed, memory, case.dtype)
        compiled: Any = torch.compile(copy.deepcopy(placed), options=PLAIN, dynamic=False)
        yield f"torch.compile {layout}", partial(_run, compiled, memory, case.dtype)


def _run(module: Way, memory: torch.memory_format, dtype: str, x: Tensor) -> Tensor:
    with torch.no_grad(), precision(dtype):
        return module(x.contiguous(memory_format=memory))


if __name__ == "__main__":
    main(*sys.argv[1:])

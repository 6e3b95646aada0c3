"""What cudnn's plans, and captures of one network, differ by: a script, no test.

    python tests/gpu/plans.py [PRECISION [BATCH]]

Lowers a dense ResNet50 (by default in fp16, one image) and stops where its plans are chosen again
inside the network. First it is captured several times, and each graph is timed as soon as it is
made. Then the first and the last of these, and others from before and after the choice, are timed
by turns: one graph replayed again and again, and four that rotate as in a benchmark, with warm
caches and with cold ones. Run it twice: the first time a search captures the network before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from statistics import median

import torch
from tabulate import tabulate
from torch import Tensor

from csbench.backends.dense.cudnn import Cudnn
from csbench.backends.dense.cudnn_layer import Network
from csbench.bench.capture import Replay
from csbench.bench.clocks import CudaClock
from csbench.bench.flush import flusher
from csbench.bench.sampling import sample_alone
from csbench.bench.weights import Library
from csbench.core.case import Case, CheckpointRef

CAPTURES, ROUNDS, SAMPLES = 8, 6, 20
ROTATING = {"one graph": 1, "four in turn": 4}


@torch.inference_mode()
def main(dtype: str = "fp16", batch: str = "1") -> None:
    """Print the captures in the order in which they were made, and a table of those by turns."""
    case = Case(
        model="resnet50", pattern="dense", sparsity=0.0, backend="cudnn", baseline="cudnn",
        device="cuda", dtype=dtype, batch=int(batch), checkpoint=CheckpointRef(seed=0),
    )  # fmt: skip
    choose = Network.choose_plans
    Network.choose_plans = lambda self, x: _around(self, x, choose)  # type: ignore[method-assign]
    Cudnn().lower_network(Library().dense(case).program, case)


def _around(network: Network, x: Tensor, choose: Callable[[Network, Tensor], None]) -> None:
    clock, cold = CudaClock(), CudaClock(flusher("cuda"))
    image = torch.randn(x.shape, device=x.device)
    kept: dict[tuple[str, str], Replay] = {}
    found = []
    for number in range(CAPTURES):
        replay = Replay(network.run, [(image,)])
        found.append(_ms(clock, replay))
        if number in (0, CAPTURES - 1):
            kept["fastest alone", f"capture {number + 1}"] = replay
    print("captured one after another:", " ".join(f"{ms:.4f}" for ms in found), "ms\n")
    kept |= _captured(network, image, "fastest alone")
    choose(network, x)
    kept |= _captured(network, image, "chosen in the network")
    times: dict[tuple[str, str], tuple[list[float], list[float]]]
    times = {name: ([], []) for name in kept}
    for _ in range(ROUNDS):
        for name, replay in kept.items():
            for one, readings in zip((clock, cold), times[name], strict=True):
                readings.append(_ms(one, replay))
    rows = [
        (*name, *(f"{f(r):.4f}" for r in readings for f in (median, min, max)))
        for name, readings in times.items()
    ]
    headers = ("plans", "replayed", "warm, ms", "min", "max", "cold, ms", "min", "max")
    print(tabulate(rows, headers, "github", disable_numparse=True))


def _captured(network: Network, image: Tensor, plans: str) -> dict[tuple[str, str], Replay]:
    return {
        (plans, name): Replay(network.run, [(torch.randn_like(image),) for _ in range(count)])
        for name, count in ROTATING.items()
    }


def _ms(clock: CudaClock, replay: Replay) -> float:
    return median(sample_alone(clock, replay, SAMPLES))


if __name__ == "__main__":
    main(*sys.argv[1:])

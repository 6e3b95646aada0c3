"""Many processes as one: who this rank is, and how all ranks agree on times and on when to stop."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from csbench.bench.clocks import Clock, Run
from csbench.errors import UsageError


@dataclass(frozen=True)
class Ranks:
    """This process among `world`; `launched` is False where no torchrun started it."""

    rank: int = 0
    world: int = 1
    local: int = 0
    launched: bool = False

    @property
    def first(self) -> bool:
        """The rank that writes the record and speaks."""
        return self.rank == 0

    def slowest(self, value: float) -> float:
        """The largest value of all ranks: the same number everywhere."""
        if not self.launched:
            return value
        agreed = torch.tensor([value], dtype=torch.float64, device=_tensor_device())
        dist.all_reduce(agreed, op=dist.ReduceOp.MAX)
        return float(agreed.item())

    def mean(self, value: float) -> float:
        """The mean over all ranks."""
        if not self.launched:
            return value
        summed = torch.tensor([value], dtype=torch.float64, device=_tensor_device())
        dist.all_reduce(summed)
        return float(summed.item()) / self.world

    def barrier(self) -> None:
        """Wait for all; a rank that does not come ends the others, named where gloo runs."""
        if not self.launched:
            return
        if dist.get_backend() == "gloo":
            dist.monitored_barrier()  # says which rank is missing
        else:
            dist.barrier()


def join(device: str, timeout: float) -> Ranks:
    """Join the group that torchrun started; alone where it did not. `timeout` bounds every wait.

    Raises UsageError where there are fewer GPUs than ranks.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return Ranks()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device == "cuda":
        if local >= torch.cuda.device_count():
            raise UsageError(
                f"rank {local} has no GPU: torch sees {torch.cuda.device_count()}; "
                f"type torchrun --nproc-per-node {torch.cuda.device_count()}, or -d cpu"
            )
        torch.cuda.set_device(local)
    backend = "nccl" if device == "cuda" else "gloo"
    if not dist.is_initialized():
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    return Ranks(dist.get_rank(), dist.get_world_size(), local, launched=True)


def leave(ranks: Ranks) -> None:
    """Leave the group, so that the others need not wait for this rank."""
    if ranks.launched and dist.is_initialized():
        dist.destroy_process_group()


class RankClock:
    """A clock that all ranks read alike: every sample begins at a barrier and takes as long as the
    slowest rank's. What is decided from it (when to stop) is therefore decided alike everywhere.
    """

    def __init__(self, own: Clock, ranks: Ranks) -> None:
        self._own, self._ranks = own, ranks

    def now(self) -> float:
        return self._ranks.slowest(time.perf_counter())

    def sample(self, run: Run, count: int) -> float:
        self._ranks.barrier()
        return self._ranks.slowest(self._own.sample(run, count))


def agreed(clock: Clock, ranks: Ranks) -> Clock:
    """The clock as all ranks read it; the clock itself where there is one process alone."""
    return RankClock(clock, ranks) if ranks.launched else clock


def _tensor_device() -> str:
    return "cuda" if dist.get_backend() == "nccl" else "cpu"

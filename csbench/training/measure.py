"""A training case from start to record, whatever becomes of it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from csbench.bench import environment
from csbench.bench.clocks import Clock, CudaClock, HostClock
from csbench.bench.memory import bounded, out_of_memory
from csbench.bench.nvml import Watch, summary, throttled
from csbench.bench.sampling import FEWEST_PAIRS
from csbench.core.case import Case
from csbench.core.record import Measurement, Record, Sparsity, Status
from csbench.core.stop import StopRule
from csbench.core.training import TrainingReport
from csbench.errors import CaseTimeout, CsbenchError, UsageError
from csbench.sparse.network import sparsities
from csbench.training.memory import suggestion
from csbench.training.probe import NotFinite, Probe
from csbench.training.ranks import Ranks
from csbench.training.setup import Options, Setup
from csbench.training.step import Trainer
from csbench.training.whole import train

ALONE = "to be told which batch would, start it once without torchrun"
_MOST_THROTTLED = 0.1  # share of pairs; more make a row invalid

Say = Callable[[str], None]


def measure(
    case: Case, options: Options, stop: StopRule, ranks: Ranks, say: Say,
    clock: Clock | None = None,
) -> Record:  # fmt: skip
    """The record of one case; only a wrong request raises. `clock` stands in for the device's."""
    env = environment.full(case.device)
    if ranks.launched:
        env["ranks"] = {"world": ranks.world, "backend": torch.distributed.get_backend()}
    with bounded(case.device):
        found = _found(case, options, stop, ranks, say, clock or _clock(case.device), env)
        # Here an error is gone, and with it all that it kept in memory.
        if found["status"] == "oom":
            hint = ALONE if ranks.launched else suggestion(case, options)
            found["reason"] = f"a batch of {case.batch} does not fit; {hint}"
    created = datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
    return Record(created=created, key=case.key, case=case, env=env, **found)


def _found(
    case: Case, options: Options, stop: StopRule, ranks: Ranks, say: Say, clock: Clock,
    env: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Status, reason and results; `env` gets the clocks."""
    found: dict[str, Any] = {"status": "ok", "reason": None}
    try:
        with _limit(stop.timeout):
            setup = Setup(case, options, ranks)
            with setup.how.precision():
                if setup.asked.whole:
                    found["training"], trainer = train(setup, say)
                else:
                    found |= _probed(setup, stop, clock, env, say)
                    trainer = found.pop("trainer")
            found["sparsity"] = _finished(setup, trainer, say)
    except UsageError:
        raise
    except Exception as error:
        status, reason = _failure(error, ranks)
        found = {"status": status, "reason": reason}
    return found


def _probed(
    setup: Setup, stop: StopRule, clock: Clock, env: dict[str, Any], say: Say
) -> dict[str, Any]:
    """What a probe gives a record, and the trainer."""
    gpu = environment.open_nvml() if setup.case.device == "cuda" else None
    env["clocks"] = {"start": environment.clocks(gpu)}
    probe = Probe(setup, stop, clock, say)
    if gpu is None:
        report, trainer = probe.run()
        readings = []
    else:
        with Watch(gpu) as watch:
            report, trainer = probe.run()
        readings = watch.readings
        env["gpu_during"] = summary(readings)
    env["clocks"]["end"] = environment.clocks(gpu)
    main = max(report.phases, key=lambda phase: phase.steps)
    pairs = probe.pairs[main.name]
    measured = Measurement(
        mode="eager",
        cache="warm",
        warmup=stop.warmup,
        samples_ms=main.samples_ms,
        baseline_samples_ms=main.dense_samples_ms,
        throttled=throttled(readings, pairs.spans),
    )
    status, reason = _verdict(report, measured, stop)
    return {
        "status": status, "reason": reason, "measurement": measured, "training": report,
        "peak_bytes": probe.peak_bytes, "trainer": trainer,
    }  # fmt: skip


def _verdict(
    report: TrainingReport, measured: Measurement, stop: StopRule
) -> tuple[Status, str | None]:
    held = len(measured.throttled) / max(1, len(measured.samples_ms))
    if held > _MOST_THROTTLED:
        return "invalid", f"the GPU held its clock down in {100 * held:.0f} % of the samples"
    loud = [phase.name for phase in report.phases if not phase.settled]
    if loud:
        pairs = max(len(phase.samples_ms) for phase in report.phases)
        where = " and ".join(loud)
        if pairs < FEWEST_PAIRS:
            return "noisy", f"{pairs} pairs in {where} are too few; give it longer: --max-time"
        return "noisy", (
            f"the time over dense in {where} is not known within {100 * stop.max_noise:g} % "
            f"after {pairs} pairs; give it longer: --max-time"
        )
    return "ok", None


def _finished(setup: Setup, trainer: Trainer, say: Say) -> Sparsity:
    """The sparsity of the finished weights, saved where that was asked for."""
    digest = setup.save(trainer)
    if digest is not None:
        say(f"saved {setup.options.save} (sha256 {digest[:12]})")
    state = {name: value.cpu() for name, value in trainer.model.state_dict().items()}
    plan = {} if setup.spec.name == "dense" else trainer.scheme.layers.plan
    return sparsities(state, plan)


def _failure(error: Exception, ranks: Ranks) -> tuple[Status, str]:
    line = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, NotFinite):
        return "invalid", line
    if isinstance(error, CaseTimeout):
        return "timeout", line
    if out_of_memory(error):
        return "oom", line
    if ranks.launched:  # the other ranks must not wait for this one: let torchrun end them
        get_error_handler().record_exception(error)  # for torchrun's last lines
        raise CsbenchError(f"rank {ranks.rank}: {type(error).__name__}: {line}") from error
    return "error", line if isinstance(error, CsbenchError) else f"{type(error).__name__}: {line}"


def _clock(device: str) -> Clock:
    return CudaClock() if device == "cuda" else HostClock()


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Raise CaseTimeout in this thread when the block outlives its time."""

    def stop(*_: object) -> None:
        raise CaseTimeout(f"not done after {seconds:g} s (--timeout)")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

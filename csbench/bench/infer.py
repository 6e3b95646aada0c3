"""One case from weights to record: build, lower, prove, sample beside the baseline, write down."""

from __future__ import annotations

import contextlib
import gc
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any, Literal, Protocol

import torch

from csbench.backends import registry
from csbench.backends.base import Backend
from csbench.bench import environment, limits
from csbench.bench.baseline import Baselines
from csbench.bench.capture import Replay
from csbench.bench.check import Gate, passed
from csbench.bench.clocks import Clock, CudaClock, HostClock
from csbench.bench.energy import joules_per_run
from csbench.bench.flush import flusher
from csbench.bench.memory import in_use, peak_of
from csbench.bench.messages import Settings
from csbench.bench.network import runs_sparse
from csbench.bench.nvml import Reading, Watch, summary, throttled
from csbench.bench.plan import plan
from csbench.bench.sampling import Pairs, sample_pairs
from csbench.bench.subject import Subject
from csbench.bench.weights import Library
from csbench.core.axes import Sweep
from csbench.core.case import Case
from csbench.core.record import Check, LayerReport, Measurement, Record, Status
from csbench.core.statistics import median
from csbench.errors import CsbenchError, UsageError

# A row is invalid when the GPU held its clock down in more than this share of its pairs.
MOST_THROTTLED = 0.1
# A layer that takes less than this many launches of an empty graph waits for the host.
_LAUNCH_BOUND = 2.0


class Report(Protocol):
    """Where the work stands, for the parent."""

    def __call__(self, phase: str, share: float = 0.0, half_width: float | None = None) -> None: ...


class Bench:
    """What a worker measures with: a device, its environment, and what cases share.

    `clock` stands in for the device's own in tests.
    """

    def __init__(self, device: str, threads: int | None = None, clock: Clock | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.device = _usable(device)
        self.env = environment.full(self.device)
        self._clock = clock
        self._library = Library()
        self._baselines = Baselines(self._library)
        self._nvml = environment.open_nvml() if self.device == "cuda" else None

    def plan(self, sweep: Sweep) -> list[Case]:
        """The cases of a sweep on this device; raises UsageError for what cannot be."""
        return plan(sweep, self.device, self._library)

    def measure(self, case: Case, settings: Settings, report: Report) -> Record:
        """The record of one case, whatever became of it; only a wrong request raises."""
        work = _Work(case, settings, dict(self.env))
        gc.collect()  # networks and their graphs hold each other: free the last case's now
        try:
            with torch.inference_mode():
                self._measure(work, report)
        except UsageError:
            raise
        except _Outcome as outcome:
            work.status, work.reason = outcome.status, outcome.reason
        except Exception as error:
            self._baselines.drop()
            work.status, work.reason = _failure(error)
            work.measurement = None
        return work.record()

    def _measure(self, work: _Work, report: Report) -> None:
        case, settings = work.case, work.settings
        backend = _able(registry.get(case.backend), case)
        clock = self._clock or _clock(case, work.cache)
        report("building weights")
        subject = Subject(self._library.sparse(case), case)
        work.sparsity = subject.weights.sparsity
        report(f"preparing {case.baseline}")
        baseline = self._baselines.get(case, clock, settings.seed, settings.rtol)

        report(f"preparing {case.backend}")
        before, begun = in_use(case.device), time.perf_counter()
        lowered = subject.lower(backend, baseline.backend, case)
        work.prepare_ms = (time.perf_counter() - begun) * 1e3
        known = limits.ceilings(case.device, self.env)
        work.env["ceilings"] = known
        work.layers = subject.with_floors(lowered.layers, known)
        if runs_sparse(backend, _family(case)):
            _insist_on_sparse(backend, work.layers, subject)
        work.peak_bytes = peak_of(
            lambda: lowered.run(*subject.reference.inputs(settings.seed)), case.device, before
        )

        report("checking")
        gate = Gate(subject.reference, settings.rtol)
        work.checked(gate.poisoned(lambda x: lowered.run(*x), settings.seed))
        replay = subject.replay(lowered, settings.seed)
        work.checked(gate.fresh(replay.fresh, settings.seed))

        report("sampling")
        work.env["clocks"] = {"start": environment.clocks(self._nvml)}
        pairs, readings = self._sample(replay, baseline.replay, clock, settings, report)
        work.env["clocks"]["end"] = environment.clocks(self._nvml)
        work.env |= {"gpu_during": summary(readings)} if readings else {}
        self._weigh(work, pairs, replay, baseline.replay, clock)
        report("checking again")
        work.checked(gate.fresh(replay.fresh, settings.seed + 1))

        marked = throttled(readings, pairs.spans)
        work.measurement = Measurement(
            mode=replay.mode,
            cache=work.cache,
            warmup=settings.stop.warmup,
            samples_ms=pairs.samples_ms,
            baseline_samples_ms=pairs.baseline_samples_ms,
            throttled=marked,
            dense_best_ms=baseline.best.milliseconds if baseline.best else None,
            dense_best=baseline.best.name if baseline.best else None,
        )
        work.reason = replay.note or baseline.replay.note
        if work.too_fast(known):
            work.env["ceilings"] = known = limits.ceilings(case.device, self.env, again=True)
        work.judge(pairs, known)

    def _weigh(
        self, work: _Work, pairs: Pairs, run: Replay, baseline: Replay, clock: Clock
    ) -> None:
        """Joules for one image of both, where the GPU counts them."""
        both = {
            "sparse": (run, pairs.samples_ms),
            "baseline": (baseline, pairs.baseline_samples_ms),
        }
        spent = {
            name: joules_per_run(one, median(times), clock, self._nvml)
            for name, (one, times) in both.items()
        }
        if None not in spent.values():
            work.env["joules_per_image"] = {
                name: joules / work.case.batch for name, joules in spent.items() if joules
            }

    def _sample(
        self, run: Replay, baseline: Replay, clock: Clock, settings: Settings, report: Report
    ) -> tuple[Pairs, Sequence[Reading]]:
        def progress(share: float, half_width: float) -> None:
            report("sampling", max(share, 1e-6), None if half_width > 10 else half_width)

        watch = Watch(self._nvml) if self._nvml is not None else None
        with watch or contextlib.nullcontext():
            pairs = sample_pairs(
                clock, run, baseline, settings.stop, seed=settings.seed, progress=progress
            )
        return pairs, watch.readings if watch else ()


class _Work:
    """A record in the making."""

    def __init__(self, case: Case, settings: Settings, env: dict[str, Any]) -> None:
        self.case, self.settings, self.env = case, settings, env
        if settings.workers > 1:  # GPUs of one host share its power, its links and its processor
            env["workers"] = settings.workers
        self.status: Status = "ok"
        self.reason: str | None = None
        self.measurement: Measurement | None = None
        self.check: Check | None = None
        self.layers: tuple[LayerReport, ...] = ()
        self.sparsity: Any = None
        self.prepare_ms: float | None = None
        self.peak_bytes: int | None = None

    @property
    def cache(self) -> Literal["cold", "warm"]:
        return self.settings.cache or ("cold" if self.case.task == "layer" else "warm")

    def checked(self, found: Check) -> None:
        """Keep the worst check of all; raises _Outcome when the output is wrong."""
        if self.check is None or (found.relative_error or 0) >= (self.check.relative_error or 0):
            self.check = found
        if not passed(found):
            self.check = found
            reason = f"relative error {found.relative_error:.1e}, allowed {found.tolerance:.1e}"
            raise _Outcome("wrong", reason)

    def too_fast(self, known: limits.Ceilings) -> str | None:
        """Why the time is impossible on this device; None when it is not."""
        assert self.measurement is not None
        time_ms = median(self.measurement.samples_ms)
        floor = limits.hard_floor_ms(sum(layer.flops for layer in self.layers), known)
        if time_ms >= floor:
            return None
        return f"{time_ms:.4g} ms is below the physical floor of {floor:.4g} ms"

    def judge(self, pairs: Pairs, known: limits.Ceilings) -> None:
        """Whether the samples can be believed: invalid, noisy or ok, and why."""
        if impossible := self.too_fast(known):
            self.status, self.reason = "invalid", impossible
        elif held_down := _held_down(self.measurement):
            self.status, self.reason = "invalid", held_down
        elif not pairs.settled:
            self.status = "noisy"
            width, wanted = pairs.speedup.half_width, self.settings.stop.max_noise
            self.reason = (
                f"interval ±{100 * width:.1f} % after {len(pairs.samples_ms)} pairs, "
                f"asked for {100 * wanted:g} %"
            )
        launch_ms = known.get("launch_us", 0.0) / 1e3
        if launch_ms and self.case.task == "layer":
            self.env["launch_bound"] = median(pairs.samples_ms) < _LAUNCH_BOUND * launch_ms

    def record(self) -> Record:
        return Record(
            created=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            key=self.case.key,
            case=self.case,
            status=self.status,
            reason=self.reason,
            measurement=self.measurement,
            check=self.check,
            layers=self.layers,
            sparsity=self.sparsity,
            prepare_ms=self.prepare_ms,
            peak_bytes=self.peak_bytes,
            env=self.env,
        )


class _Outcome(Exception):  # noqa: N818 (no error: a case that came to something else than a time)
    """A case that carries no time, for a reason that is no defect."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


def _held_down(measured: Measurement | None) -> str | None:
    """Why throttling makes a measurement invalid; None when it does not."""
    if measured is None or len(measured.throttled) <= MOST_THROTTLED * len(measured.samples_ms):
        return None
    share = len(measured.throttled) / len(measured.samples_ms)
    return f"the GPU held its clock down in {100 * share:.0f} % of the samples"


def _usable(device: str) -> str:
    """ "cpu" or "cuda"; raises UsageError where torch has no such device."""
    cuda = torch.cuda.is_available()
    if device == "auto":
        return "cuda" if cuda else "cpu"
    if device == "cuda" and not cuda:
        raise UsageError(
            "device 'cuda' was asked for, but torch sees none here; type -d cpu, "
            "or csbench doctor to see why"
        )
    return device


def _able(backend: Backend, case: Case) -> Backend:
    """The backend if it can run the case here at all; raises _Outcome("unsupported")."""
    pattern = _family(case)
    reason = backend.missing(case.device)
    if case.device not in backend.devices:
        reason = f"{backend.name} runs on {_either(backend.devices)}, not on {case.device}"
    elif case.dtype not in backend.dtypes:
        reason = f"{backend.name} runs {_either(backend.dtypes)}, not {case.dtype}"
    elif not {pattern, "dense"} & backend.patterns:
        reason = f"{backend.name} runs {_either(backend.patterns)}, not {pattern}"
    if reason is not None:
        raise _Outcome("unsupported", reason)
    return backend


def _family(case: Case) -> str:
    return case.pattern.partition(":")[0]


def _either(names: frozenset[str]) -> str:
    return " and ".join(sorted(names))


def _insist_on_sparse(backend: Backend, layers: Sequence[LayerReport], subject: Subject) -> None:
    """A sparse backend that ran no layer sparsely has nothing to show."""
    if any(layer.ran == "sparse" for layer in layers):
        return
    carrying = {conv.name for conv in subject.convolutions if conv.pattern is not None}
    reasons = Counter(layer.reason for layer in layers if layer.name in carrying)
    usual = reasons.most_common(1)[0][0] if reasons else "no layer carries the pattern"
    raise _Outcome("unsupported", f"{backend.name} ran no layer sparse: {usual}")


def _clock(case: Case, cache: str) -> Clock:
    flush = flusher(case.device) if cache == "cold" else None
    return CudaClock(flush) if case.device == "cuda" else HostClock(flush)


def _failure(error: Exception) -> tuple[Status, str]:
    """What an exception makes of a case."""
    line = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or "can't allocate" in line:
        return "oom", line or "out of memory"
    if isinstance(error, CsbenchError):
        return "error", line
    return "error", f"{type(error).__name__}: {line}"

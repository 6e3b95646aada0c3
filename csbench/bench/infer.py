"""One case from weights to record: build, lower, prove, sample beside the baseline, write down."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Sequence
from typing import Protocol

import torch

from csbench.bench import environment, limits, slow_baseline
from csbench.bench.baseline import Baselines
from csbench.bench.capture import Replay
from csbench.bench.check import Gate
from csbench.bench.clocks import Clock, CudaClock, HostClock
from csbench.bench.contest import Contest, insist_on_sparse
from csbench.bench.draft import Draft, Outcome
from csbench.bench.energy import EnergyMeter
from csbench.bench.flush import flusher, l2_bytes
from csbench.bench.memory import in_use, out_of_memory, peak_of
from csbench.bench.messages import Settings
from csbench.bench.network import runs_sparse
from csbench.bench.nvml import Reading, Watch, low_clock, summary, throttled
from csbench.bench.others import Others
from csbench.bench.plan import plan
from csbench.bench.sampling import Pairs, sample_pairs
from csbench.bench.slow_baseline import SlowBaseline
from csbench.bench.subject import Subject
from csbench.bench.support import able, family
from csbench.bench.traffic import least_bytes
from csbench.bench.weights import Library, Weights
from csbench.core.axes import Sweep
from csbench.core.case import Case
from csbench.core.record import Measurement, Record, Status
from csbench.core.statistics import median
from csbench.errors import CsbenchError, PatternError, UsageError

_UNKNOWN_NOISE = 10.0  # half-widths above this say no more than that it is early


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
        self._energy = EnergyMeter(self._nvml)

    def plan(self, sweep: Sweep) -> list[Case]:
        """The cases of a sweep on this device; raises UsageError for what cannot be."""
        return plan(sweep, self.device, self._library)

    def measure(
        self, case: Case, settings: Settings, report: Report, slow_ms: Sequence[float] = ()
    ) -> Record:
        """The record of one case, whatever became of it; only a wrong request raises, and a
        baseline that is slow here, unless it was so in enough other processes (`slow_ms`).
        """
        draft = Draft(case, settings, self.env)
        gc.collect()  # networks and their graphs hold each other: free the last case's now
        try:
            with torch.inference_mode():
                contest = self._prepare(draft, report)
                doubt = self._doubt(draft, contest, slow_ms)
                self._compete(draft, contest, report)
            if doubt is not None and draft.status in ("ok", "noisy"):
                draft.doubted("noisy", doubt)
        except (UsageError, SlowBaseline):
            raise
        except Outcome as outcome:
            draft.fail(outcome.status, outcome.reason)
        except Exception as error:
            self._baselines.drop()
            draft.fail(*_failure(error))
        return draft.record()

    def _prepare(self, draft: Draft, report: Report) -> Contest:
        """Everything that comes before the first sample and is part of no sample."""
        case, settings = draft.case, draft.settings
        backend = able(case)
        clock = self._clock or _clock(case, draft.cache)
        report("building weights")
        subject = Subject(_weights(self._library, case), case)
        draft.sparsity, draft.mask_ms = subject.weights.sparsity, subject.weights.mask_ms
        report(f"preparing {case.baseline}")
        baseline = self._baselines.get(case, clock, settings.seed, settings.rtol)
        report(f"preparing {case.backend}")
        before, begun = in_use(case.device), time.perf_counter()
        lowered = subject.lower(backend, baseline.backend, case)
        draft.prepare_ms = (time.perf_counter() - begun) * 1e3
        draft.env["ceilings"] = known = limits.ceilings(case.device, self.env)
        draft.layers = subject.with_floors(lowered.layers, known)
        if runs_sparse(backend, family(case)) and case.sparsity > 0:
            insist_on_sparse(backend, draft.layers, subject)
        inputs = subject.reference.inputs(settings.seed)
        draft.peak_bytes = peak_of(lambda: lowered.run(*inputs), case.device, before)
        return Contest(subject, backend, lowered, baseline, clock)

    def _doubt(self, draft: Draft, contest: Contest, slow_ms: Sequence[float]) -> str | None:
        """Why the baseline is too slow to be compared with; raises SlowBaseline where another
        process may do better. Layers (no samples here) and cold caches vary too much to tell."""
        case, baseline = draft.case, contest.baseline
        samples_ms = baseline.ways.samples_ms.get(f"{case.baseline} {case.dtype}")
        if case.device not in slow_baseline.DEVICES or draft.cache == "cold" or not samples_ms:
            return None
        return slow_baseline.doubt(
            case, self.env, median(samples_ms), lambda: baseline.time_ms(contest.clock), slow_ms
        )

    def _compete(self, draft: Draft, contest: Contest, report: Report) -> None:
        """Prove the output, sample both in turn, and prove it again."""
        seed, baseline = draft.settings.seed, contest.baseline
        report("checking")
        gate = Gate(contest.subject.reference, draft.settings.rtol)
        runs = [contest.proved(draft, gate, contest.lowered)]
        report("making copies")
        contest.copy(draft, gate, runs)
        replay = runs[0]

        report("sampling")
        clocks = draft.env["clocks"] = {"start": environment.clocks(self._nvml)}
        with Others(self._nvml) as others:
            pairs, readings = self._sample(draft, contest, runs, report)
        draft.env |= {"others": others.found} if others.found else {}
        clocks["end"] = environment.clocks(self._nvml)
        self._load(draft, contest, replay, pairs)
        report("checking again")
        contest.insist_on_work(replay, seed)
        for run in runs:
            for check in gate.replayed(run, seed + 1):
                draft.checked(check)

        highest = self._nvml.highest_sm_mhz() if self._nvml is not None else None
        if readings:
            draft.env["gpu_during"] = summary(readings, highest)
        notes = (
            replay.note or baseline.copies[0].note,
            low_clock(readings, highest),
            others.note(on_cores=replay.mode == "eager"),
        )
        draft.reason = "; ".join(filter(None, notes)) or None
        draft.measurement = Measurement(
            mode=replay.mode,
            cache=draft.cache,
            warmup=draft.settings.stop.warmup,
            samples_ms=pairs.samples_ms,
            baseline_samples_ms=pairs.baseline_samples_ms,
            copies=pairs.copies,
            throttled=throttled(readings, pairs.spans),
            dense_samples_ms=baseline.ways.samples_ms,
            dense_left_out=baseline.ways.left_out,
        )
        if replay.on_gpu:
            draft.least_bytes = least_bytes(
                contest.subject.conv or contest.subject.weights.program, draft.layers, draft.case,
                cold=draft.cache == "cold", turns=replay.turns, cache_bytes=l2_bytes(),
            )  # fmt: skip
        self._judge(draft, pairs)

    def _sample(
        self, draft: Draft, contest: Contest, runs: Sequence[Replay], report: Report
    ) -> tuple[Pairs, Sequence[Reading]]:
        def progress(share: float, half_width: float) -> None:
            known = half_width if half_width < _UNKNOWN_NOISE else None
            report("sampling", max(share, 1e-6), known)

        watch = Watch(self._nvml) if self._nvml is not None else None
        with watch or contextlib.nullcontext():
            pairs = sample_pairs(
                contest.clock, runs, contest.baseline.copies[: len(runs)], draft.settings.stop,
                seed=draft.settings.seed, progress=progress,
            )  # fmt: skip
        return pairs, watch.readings if watch else ()

    def _load(self, draft: Draft, contest: Contest, replay: Replay, pairs: Pairs) -> None:
        """A second of each by itself, where the GPU counts energy: joules for an image, and time.

        With cold caches the joules would be mostly those of what empties the caches.
        """
        if draft.cache == "cold":
            return
        both = {
            "sparse": (replay, pairs.samples_ms),
            "baseline": (contest.baseline.copies[0], pairs.baseline_samples_ms),
        }
        found = {
            name: load
            for name, (run, times) in both.items()
            if (load := self._energy.sustained(run, median(times), contest.clock)) is not None
        }
        if len(found) == len(both):
            draft.env["joules_per_image"] = {
                name: load.joules / draft.case.batch for name, load in found.items() if load.joules
            }
            draft.env["sustained_ms"] = {name: load.milliseconds for name, load in found.items()}
            draft.env["sustained_s"] = {name: load.seconds for name, load in found.items()}

    def _judge(self, draft: Draft, pairs: Pairs) -> None:
        known = draft.env["ceilings"]
        if draft.too_fast(known):  # before it is refused, the ceilings get a second chance
            known = limits.ceilings(draft.case.device, self.env, again=True)
            draft.env["ceilings"] = known
        draft.judge(pairs, known)


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


def _weights(library: Library, case: Case) -> Weights:
    """The case's network; raises Outcome("unsupported") where none of its layers can be so."""
    try:
        return library.sparse(case)
    except PatternError as error:
        raise Outcome("unsupported", str(error)) from None


def _clock(case: Case, cache: str) -> Clock:
    flush = flusher(case.device) if cache == "cold" else None
    return CudaClock(flush) if case.device == "cuda" else HostClock(flush)


def _failure(error: Exception) -> tuple[Status, str]:
    """What an exception makes of a case."""
    line = (str(error).strip().splitlines() or [""])[0]
    if out_of_memory(error):
        return "oom", line or "out of memory"
    return "error", line if isinstance(error, CsbenchError) else f"{type(error).__name__}: {line}"

"""The probe: short samples of every phase of a schedule, beside dense training in the same run."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import nn

from csbench.bench.clocks import Clock
from csbench.bench.memory import in_use, peak_of
from csbench.bench.sampling import Pairs, sample_alone, sample_pairs
from csbench.core.stop import StopRule
from csbench.core.training import EventReport, HeldOut, PhaseReport, TrainingReport
from csbench.training.clock import step_clock
from csbench.training.data import loader_ms
from csbench.training.ranks import agreed
from csbench.training.schedule import Phase
from csbench.training.setup import Setup
from csbench.training.split import Mark, split
from csbench.training.step import Trainer, plain_loop

VALIDATION = "validation batch"
LEFT_OUT = (
    "start-up, compilation and warm-up", "saving checkpoints", "logging",
    "what a longer run meets: thermal limits, other jobs, restarts",
)  # fmt: skip
_SPLITS = 5  # steps that are taken apart
_EVENTS, _EVENT_SECONDS = 3, 5.0  # samples of an event, fewer where they take longer
_SHORT_EVENT_MS = 200.0
_HELD_LEAST, _HELD_MOST = 4, 200  # steps of the held-out window
_BEFORE_PEAK = {"cpu": 1, "cuda": 5}  # steps; on a CPU peaks are not compared


class NotFinite(Exception):  # noqa: N818 (an outcome of a case)
    """The loss is no number any more; the message says in which phase."""


class Probe:
    """Measures one training case by the device's clock, which all ranks read alike."""

    def __init__(self, setup: Setup, stop: StopRule, clock: Clock, say: Callable[[str], None]):
        self._setup, self._stop, self._say = setup, stop, say
        self._clock = agreed(clock, setup.ranks)
        self._step_clock = agreed(step_clock(clock, setup.case.device), setup.ranks)
        self._source = setup.source()
        self.pairs: dict[str, Pairs] = {}  # by phase, for the record
        self.peak_bytes: int | None = None

    def run(self) -> tuple[TrainingReport, Trainer]:
        """The raw report and the trainer as the schedule's end leaves it."""
        setup = self._setup
        self._say("building dense training")
        self._first_product()
        baseline, dense_peak = self._baseline()
        self._say(f"building {setup.case.backend}")
        device = setup.case.device
        before = self._in_use()
        trainer = setup.trainer()
        self.peak_bytes = _peak(self._step(trainer), device, before)
        sparse = [] if setup.spec.name == "dense" else trainer.scheme.layers.names

        plan = trainer.scheme.phases(setup.steps)
        events: list[EventReport] = []
        phases = [self._phase(phase, trainer, baseline, events) for phase in plan]
        held = self._held_out(trainer, plan, phases)
        events += self._validation(trainer)
        ddp = self._ddp(baseline)
        report = TrainingReport(
            recipe=setup.recipe,
            phases=tuple(phases),
            events=_joined(events),
            held_out=held,
            flops=setup.flops(sparse),
            loader_ms=self._loader(),
            ddp_ms=ddp.samples_ms if ddp else (),
            plain_ms=ddp.baseline_samples_ms if ddp else (),
            dense_peak_bytes=dense_peak,
            left_out=LEFT_OUT if setup.asked.data == "real" else ("reading images", *LEFT_OUT),
        )
        return report, trainer

    def _baseline(self) -> tuple[Callable[[], None], int | None]:
        """The dense step, and its peak memory: for `dense` itself a plain loop's."""
        setup, device = self._setup, self._setup.case.device
        before = self._in_use()
        if setup.spec.name == "dense" and not setup.ranks.launched:
            step = plain_loop(setup.model(), setup.recipe, setup.how, self._source.batch)
        else:
            dense = setup.dense(parallel=setup.ranks.launched)
            step = self._step(dense)
        return step, _peak(step, device, before)

    def _first_product(self) -> None:
        """A step of one small layer: what the process keeps from its first products on (cuBLAS's
        workspaces) would count as memory of dense training, which comes first."""
        setup = self._setup
        device = setup.case.device
        batch = torch.ones(64, 64, device=device), torch.zeros(64, dtype=torch.long, device=device)
        plain_loop(
            nn.Linear(64, 64), setup.recipe, replace(setup.how, compile=False), lambda: batch
        )()

    def _in_use(self) -> int:
        """Memory in use when all that an earlier case left behind is gone."""
        gc.collect()
        self._setup.ranks.barrier()  # NCCL lets go of what earlier collectives used at the next one
        return in_use(self._setup.case.device)

    def _step(self, trainer: Trainer) -> Callable[[], None]:
        batch = self._source.batch
        return lambda: trainer.step(batch())

    def _phase(
        self, phase: Phase, trainer: Trainer, baseline: Callable[[], None],
        events: list[EventReport],
    ) -> PhaseReport:  # fmt: skip
        self._say(f"phase {phase.name}")
        if phase.updates:
            took = self._events(lambda: trainer.update_masks(trainer.scheme.sparsity))
            name = trainer.scheme.event
            events.append(EventReport(name=name, count=phase.updates, samples_ms=tuple(took)))
        step = self._step(trainer)
        pairs = self._in_turn(step, baseline)
        self.pairs[phase.name] = pairs
        parts = split(self._marked(trainer), self._setup.case.device, _SPLITS)
        self._insist_on_finite(trainer, phase.name)
        return PhaseReport(
            name=phase.name,
            steps=phase.steps,
            samples_ms=pairs.samples_ms,
            dense_samples_ms=pairs.baseline_samples_ms,
            split=parts,
            density=phase.density,
            settled=pairs.settled,
        )

    def _in_turn(self, step: Callable[[], None], other: Callable[[], None]) -> Pairs:
        seed = self._setup.options.seed
        return sample_pairs(self._step_clock, (step,), (other,), self._stop, seed=seed)

    def _marked(self, trainer: Trainer) -> Callable[[Mark | None], None]:
        def step(mark: Mark | None) -> None:
            batch = self._source.batch()
            if mark:
                mark("data")
            trainer.step(batch, mark=mark)

        return step

    def _insist_on_finite(self, trainer: Trainer, phase: str) -> None:
        loss = trainer.last_loss
        finite = loss is not None and bool(torch.isfinite(loss))
        # The worst of all ranks, so that all of them leave together.
        if self._setup.ranks.slowest(0.0 if finite else 1.0):
            raise NotFinite(
                f"the loss is not finite in the phase '{phase}' (learning rate "
                f"{self._setup.recipe.lr:g}); lower it with --lr"
            )

    def _events(self, work: Callable[[], object]) -> list[float]:
        """Samples of work that is rare and may be long; where it is short, after a warm-up."""
        begun = self._clock.now()
        first = self._clock.sample(work, 1)
        found = [] if first < _SHORT_EVENT_MS else [first]
        while len(found) < _EVENTS and (not found or self._clock.now() - begun < _EVENT_SECONDS):
            found.append(self._clock.sample(work, 1))
        return found

    def _held_out(
        self, trainer: Trainer, plan: Sequence[Phase], phases: Sequence[PhaseReport]
    ) -> HeldOut:
        """A longer window of real training: the busiest phase, its mask updates included."""
        updated = {p.name for p in plan if p.updates > 1}
        chosen = max(reversed(phases), key=lambda p: (p.name in updated, p.steps))
        mean = sum(chosen.samples_ms) / len(chosen.samples_ms)
        wanted = 1e3 * self._stop.max_time / 2 / mean
        steps = max(_HELD_LEAST, min(_HELD_MOST, int(wanted)))
        every, sparsity = self._setup.asked.interval, trainer.scheme.sparsity
        due = [chosen.name in updated and i % every == 0 for i in range(steps)]
        self._say(f"self-check: {steps} steps of the phase {chosen.name}")

        def window() -> None:
            for update in due:
                trainer.step(self._source.batch(), sparsity if update else None)

        trainer.step(self._source.batch())  # the window begins on a busy GPU
        measured = self._clock.sample(window, 1)
        self._insist_on_finite(trainer, chosen.name)
        return HeldOut(phase=chosen.name, steps=steps, events=sum(due), measured_ms=measured)

    def _validation(self, trainer: Trainer) -> list[EventReport]:
        setup = self._setup
        batches = setup.dataset.validation_batches(setup.case.batch, setup.ranks.world)
        if not batches:
            return []
        self._say("validation")
        batch = next(self._source.validation())
        samples = sample_alone(self._step_clock, lambda: trainer.evaluate(batch), _EVENTS)
        count = batches * setup.asked.epochs
        return [EventReport(name=VALIDATION, count=count, samples_ms=tuple(samples))]

    def _loader(self) -> tuple[float, ...]:
        """What a batch of the loader takes when nothing else runs."""
        if self._setup.asked.data != "real":
            return ()
        return loader_ms(self._source, self._setup.options.workers, _EVENTS)

    def _ddp(self, with_ddp: Callable[[], None]) -> Pairs | None:
        """DistributedDataParallel itself: the dense step with it and one without, in turn."""
        setup = self._setup
        if not setup.ranks.launched:
            return None
        self._say("the cost of DistributedDataParallel")
        return self._in_turn(with_ddp, self._step(setup.dense(parallel=False)))


def _peak(step: Callable[[], None], device: str, before: int) -> int | None:
    """The peak of a step that is as all later ones.

    The first has no momentum yet and searches algorithms. DistributedDataParallel makes new buckets
    in the second, and NCCL keeps the old ones until its watchdog has looked and a collective
    follows, some 0.1 s later.
    """
    for _ in range(_BEFORE_PEAK[device]):
        peak_of(step, device, before)  # waits for the step
    return peak_of(step, device, before)


def _joined(events: Sequence[EventReport]) -> tuple[EventReport, ...]:
    """Events of one name as one: counts and samples together."""
    found: dict[str, EventReport] = {}
    for event in events:
        held = found.get(event.name)
        if held is not None:
            event = EventReport(
                name=event.name, count=held.count + event.count,
                samples_ms=held.samples_ms + event.samples_ms,
            )  # fmt: skip
        found[event.name] = event
    return tuple(found.values())

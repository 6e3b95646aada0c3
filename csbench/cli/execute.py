"""What `infer` and `run` do alike: plan, measure, save, and print what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import msgspec

from csbench.bench.messages import Settings
from csbench.bench.progress import Reporter, outcome, title
from csbench.bench.runner import Runner
from csbench.core.axes import Sweep, specifications
from csbench.core.case import Case
from csbench.core.outcome import FAILED, exit_code
from csbench.core.record import Record
from csbench.core.stop import StopRule
from csbench.core.store import DEFAULT, Store, measured_keys
from csbench.errors import CsbenchError, UsageError, unknown

_FAILED = ("wrong", "oom", "timeout", "error")
# Seconds to build, lower, check and copy a case, for the estimate alone. On a GPU the first time
# took 4 to 60 on H200s, most of it choosing tiles; what was chosen is kept.
_PREPARING = {"cpu": 5.0, "cuda": 20.0}


def settings(measuring: dict[str, Any], stop: StopRule, seed: int = 0) -> Settings:
    """Settings from the options of csbench.cli.options, over a suite's stop rule."""
    given = {name: value for name, value in measuring.items() if value is not None}
    if "max_time" in given and "min_time" not in given:
        given["min_time"] = min(stop.min_time, given["max_time"])
    if "min_time" in given and "max_time" not in given:
        given["max_time"] = max(stop.max_time, given["min_time"])
    rule = {name: given.pop(name) for name in StopRule.__struct_fields__ if name in given}
    return Settings(stop=msgspec.structs.replace(stop, **rule), seed=seed, **given)


def execute(
    sweeps: Sequence[Sweep], how: Settings, output: dict[str, Any], gpus: Sequence[str] = ()
) -> int:
    """Measure the sweeps and return the exit code; records are in the file as soon as they exist.

    `gpus` (indices) share the cases of every sweep on a GPU. On Ctrl-C or a full disk what was
    measured so far is printed before the error leaves.
    """
    _check(sweeps)
    color = {"always": True, "never": False}.get(output["color"])
    reporter = Reporter(verbose=output["verbose"], quiet=output["quiet"], color=color)
    with ExitStack() as stack:
        store = None if output["dry_run"] else stack.enter_context(Store(output["path"]))
        done = measured_keys(output["path"]) if output["resume"] else frozenset()
        everything = _plan(sweeps, how, gpus, reporter, stack)
        planned = [(runner, [c for c in part if c.key not in done]) for runner, part in everything]
        if store is None:
            for _, part in planned:
                for case in part:
                    click.echo(f"{case.key}  {title(case)} on {case.device} over {case.baseline}")
            return 0
        cases = [case for _, part in planned for case in part]
        skipped = sum(len(part) for _, part in everything) - len(cases)
        _announce(cases, how.stop, skipped, reporter, workers=max(1, len(gpus)))
        records: list[Record] = []
        try:
            _measure(planned, store, output, reporter, records)
        finally:
            _print(records, store.appended, output, reporter)
    code = exit_code(record.status for record in records)
    if code == FAILED and not any(record.status in _FAILED for record in records):
        click.echo(f"csbench: {_nothing_ran(records)}", err=True)
    return code


def _nothing_ran(records: Sequence[Record]) -> str:
    """Why a command failed in which no case did: none of them can run here."""
    reasons = list(dict.fromkeys(record.reason or "unsupported" for record in records))
    plural = "s" if len(records) > 1 else ""
    more = f" (and {len(reasons) - 1} more; see the table)" if len(reasons) > 1 else ""
    return f"nothing ran, {len(records)} case{plural} unsupported: {reasons[0]}{more}"


def _check(sweeps: Iterable[Sweep]) -> None:
    """What can be refused before a worker starts and loads torch."""
    from csbench.backends import registry

    for sweep in sweeps:
        for name in (*sweep.backend, *sweep.baseline):
            if ":" not in name and name not in registry.names():
                also = "(or module:Class, FILE.py:Class; see csbench backends list)"
                raise UsageError(unknown("backend", name, registry.names(), also))
        if not sweep.checkpoint:
            for pattern in sweep.pattern or ("dense",):
                specifications(pattern, sweep.sparsity)


def _plan(
    sweeps: Sequence[Sweep], how: Settings, gpus: Sequence[str], reporter: Reporter,
    stack: ExitStack,
) -> list[tuple[Runner, list[Case]]]:  # fmt: skip
    """The cases, each once, by the runner of the devices that they run on."""
    runners: dict[tuple[str, ...], Runner] = {}
    planned: dict[Runner, list[Case]] = {}
    seen: set[str] = set()
    for sweep in sweeps:
        for devices in _devices(sweep, gpus):
            if devices not in runners:
                runners[devices] = stack.enter_context(Runner(devices, how, reporter))
            runner = runners[devices]
            for case in runner.plan(sweep):
                if case.key not in seen:
                    seen.add(case.key)
                    planned.setdefault(runner, []).append(case)
    return [(runner, _together(cases)) for runner, cases in planned.items()]


def _together(cases: Iterable[Case]) -> list[Case]:
    """In their order, but those with the same dense network follow each other: it is made once."""
    alike: dict[Case, list[Case]] = {}
    for case in cases:
        alike.setdefault(case.dense, []).append(case)
    return [case for part in alike.values() for case in part]


def _devices(sweep: Sweep, gpus: Sequence[str]) -> list[tuple[str, ...]]:
    """Groups of devices that share a sweep's cases: all its GPUs are one group."""
    if gpus:
        return [tuple(f"cuda:{index}" for index in gpus)]
    numbered = tuple(device for device in sweep.device if device.startswith("cuda:"))
    others = [(device,) for device in sweep.device if device not in numbered]
    return [*others, *([numbered] if numbered else [])]


def _announce(
    cases: Sequence[Case], stop: StopRule, skipped: int, reporter: Reporter, workers: int
) -> None:
    """How many cases there are and how long they take, before the first one starts."""
    more = f" ({skipped} more are there already)" if skipped else ""
    if not cases:
        reporter.say(f"nothing to measure{more}")
        return
    ends = (
        _duration(sum(t + _PREPARING[case.device.partition(":")[0]] for case in cases) / workers)
        for t in (stop.min_time, stop.max_time)
    )
    plural = "s" if len(cases) > 1 else ""
    if workers > 1:
        reporter.say(f"{workers} GPUs of one host at once: they share its power, links and CPU")
    reporter.say(
        f"{len(cases)} case{plural} on {cases[0].device}{more}, "
        f"about {' to '.join(dict.fromkeys(ends))}"
    )


def _measure(
    planned: Sequence[tuple[Runner, list[Case]]], store: Store, output: dict[str, Any],
    reporter: Reporter, records: list[Record],
) -> None:  # fmt: skip
    with reporter.begin(sum(len(cases) for _, cases in planned)):
        for runner, cases in planned:
            for record in runner.measure(cases):
                records.append(record)
                store.append(record)
                reporter.finished(record)
                if output["fail_fast"] and record.status in _FAILED:
                    return


def _print(
    records: Sequence[Record], saved: int, output: dict[str, Any], reporter: Reporter
) -> None:
    """Tables or JSON Lines to stdout; what went wrong, where the records are and what next."""
    if not records:
        return
    if output["as_json"]:
        for record in records:
            click.echo(msgspec.json.encode(record).decode())
    else:
        click.echo(_tables(records), nl=False)
    if not output["verbose"]:
        for record in records:
            if record.status in _FAILED:
                reporter.say(f"{title(record.case)}: {outcome(record)}")
    path: Path = output["path"]
    named = "" if path == DEFAULT else f" {path}"
    if saved:
        count = f"{saved} record{'s' if saved > 1 else ''}"
        reporter.say(f"{count} in {path}; next: csbench report{named} --format latex")


def _tables(records: Sequence[Record]) -> str:
    from csbench.report.document import render

    try:
        return render(records)
    except CsbenchError:  # nothing for any table: say at least what became of the cases
        return "".join(f"{title(record.case)}: {outcome(record)}\n" for record in records)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"

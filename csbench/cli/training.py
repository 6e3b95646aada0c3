"""What `train-time` and training suites do alike: plan, measure, save, print the tables."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import product
from typing import Any

import click
import msgspec

from csbench.bench.messages import Settings
from csbench.bench.progress import Reporter
from csbench.core.axes import Sweep
from csbench.core.case import Case
from csbench.core.outcome import exit_code
from csbench.core.record import Record
from csbench.core.stop import TRAINING
from csbench.core.store import DEFAULT, Store, measured_keys
from csbench.core.training import TrainSettings
from csbench.errors import CsbenchError, SuiteError, UsageError

_LONGEST_WAIT = 300.0  # seconds that ranks wait for one another before all of them end
_OPTIONS = {"data": None, "save": None, "workers": 2}


def execute(asked: dict[str, Any], measuring: dict[str, Any], output: dict[str, Any]) -> int:
    """Measure one case for each scheme, sparsity and batch size and return the exit code."""
    from csbench.cli.execute import settings
    from csbench.training.plan import Asked, plan

    how = settings(measuring, TRAINING)
    lists = ("batch", "input", "sparsity")
    own = {k: v for k, v in asked.items() if k in Asked._fields and k not in lists}
    size = None if asked["input"] is None else asked["input"][0]
    planned = [
        plan(Asked(scheme=s, batch=b, sparsity=share, input=size, ranks=_world(), **own))
        for b in asked["batch"] or (None,)
        for s in _listed(asked["pattern"])
        for share in asked["sparsity"] or (None,)
    ]
    cases = list({case.key: case for case in planned}.values())  # dense has one sparsity alone
    if asked["save"] is not None and len(cases) > 1:
        raise UsageError("--save takes one scheme, sparsity and batch size; name one of each")
    return run(cases, asked, how, output)


def execute_suite(sweeps: Sequence[Sweep], how: Settings, output: dict[str, Any]) -> int:
    """Measure the training sweeps of a suite, which name schemes as their backends."""
    from csbench.training.plan import Asked, plan

    cases: list[Case] = []
    for sweep in sweeps:
        if set(sweep.task) != {"train-step"}:
            raise SuiteError('task "train-step" stands in a table of its own')
        schemes = sweep.backend or sweep.pattern or ("dense",)
        axes = product(
            sweep.model, sweep.device, sweep.dataset or ("imagenet",), sweep.dtype,
            sweep.batch, sweep.epochs or (None,), sweep.sparsity or (None,), schemes,
        )  # fmt: skip
        for model, device, dataset, dtype, batch, epochs, sparsity, scheme in axes:
            cases.append(
                plan(
                    Asked(
                        scheme=scheme, model=model, device=device, dataset=dataset, dtype=dtype,
                        batch=batch, epochs=epochs, sparsity=sparsity, seed=sweep.seed[0],
                        ranks=_world(),
                    )
                )
            )  # fmt: skip
    return run(cases, {**_OPTIONS, "seed": how.seed}, how, output)


def run(cases: list[Case], asked: dict[str, Any], how: Settings, output: dict[str, Any]) -> int:
    """Measure the cases in this process; the first rank writes and speaks."""
    from csbench.sparse.checkpoint import target
    from csbench.training.measure import measure
    from csbench.training.ranks import join, leave
    from csbench.training.setup import Options

    if output["dry_run"]:
        for case in cases:
            click.echo(f"{case.key}  {title(case)} on {case.device}")
        return 0
    options = Options(
        data=asked["data"], save=None if asked["save"] is None else target(asked["save"]),
        workers=asked["workers"], seed=asked["seed"],
    )  # fmt: skip
    _threads(how.threads)
    ranks = join(cases[0].device, min(how.stop.timeout, _LONGEST_WAIT))
    reporter = Reporter(verbose=output["verbose"], quiet=output["quiet"] or not ranks.first)
    done = measured_keys(output["path"]) if output["resume"] else frozenset()
    records: list[Record] = []
    try:
        for case in cases:
            if case.key in done:
                continue
            reporter.say(title(case))
            for line in remarks(case):
                reporter.say(f"  {line}")
            record = measure(case, options, how.stop, ranks, lambda s: reporter.say(f"  {s}"))
            records.append(record)
            if ranks.first:
                with Store(output["path"]) as store:
                    store.append(record)
            if record.reason:
                reporter.say(f"  {record.status}: {record.reason}")
            if output["fail_fast"] and record.status in ("oom", "error", "timeout"):
                break
    finally:
        leave(ranks)
        if ranks.first and records:  # whatever ended it, what was measured is shown
            _print(records, {**output, "whole": asked.get("whole")}, reporter)
    if not records:
        reporter.say("nothing to measure")
    statuses = {record.status for record in records}
    if ranks.launched and statuses <= {"ok", "noisy"}:
        return 0  # torchrun takes any other code for a crash of this rank
    return exit_code(record.status for record in records)


def title(case: Case) -> str:
    """A training case in a few words."""
    asked = case.training
    assert isinstance(asked, TrainSettings)
    layout = "channels last" if asked.channels_last else "contiguous"
    ranks = f", {asked.ranks} ranks" if asked.ranks else ""
    return (
        f"{case.model} {case.backend} {case.pattern} {100 * case.sparsity:g} % on {asked.dataset} "
        f"({asked.data}), batch {case.batch}, {case.dtype}, {layout}{ranks}, "
        f"{asked.epochs} epochs of {asked.steps_per_epoch} steps"
    )


def remarks(case: Case) -> list[str]:
    """What a reader has to know before the figures: what was chosen for want of a choice."""
    asked = case.training
    assert isinstance(asked, TrainSettings)
    found = []
    if case.device == "cpu" and asked.dataset == "imagenet":
        theirs = "" if case.batch in (256, 32) else ", not the source's 256 or 32"
        found.append(
            f"a CPU: batch {case.batch}{theirs}; the projected hours are those of this machine at "
            "this batch"
        )
    if asked.data == "synthetic":
        found.append("synthetic images, already on the device: reading them is left out")
    return found


def _listed(text: str) -> list[str]:
    names = [part.strip() for part in text.split(",")]
    if not all(names):
        raise UsageError(f"an empty value in --pattern '{text}'; expected a comma list")
    return list(dict.fromkeys(names))


def _world() -> int:
    """How many ranks torchrun started; 0 without it."""
    return int(os.environ.get("WORLD_SIZE", "0"))


def _threads(count: int | None) -> None:
    if count is not None:
        import torch

        torch.set_num_threads(count)


def _print(found: list[Record], output: dict[str, Any], reporter: Reporter) -> None:
    if output["as_json"]:
        for record in found:
            click.echo(msgspec.json.encode(record).decode())
    else:
        click.echo(_tables(found), nl=False)
    path = output["path"]
    named = "" if path == DEFAULT else f" {path}"
    plural = "s" if len(found) > 1 else ""
    table = "accuracy" if output.get("whole") else "training-hours"
    reporter.say(
        f"{len(found)} record{plural} in {path}; next: csbench report{named} --table {table}"
    )


def _tables(records: list[Record]) -> str:
    from csbench.report.document import render

    try:
        return render(records)
    except CsbenchError:
        return "".join(f"{title(r.case)}: {r.status} {r.reason or ''}\n" for r in records)

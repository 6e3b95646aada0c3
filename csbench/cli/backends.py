"""csbench backends: list them, or test one for conformance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec
from tabulate import tabulate

from csbench.backends import registry
from csbench.cli import exit_with
from csbench.core.case import DTYPES
from csbench.core.pattern import parse
from csbench.errors import BackendError, UsageError, unknown

if TYPE_CHECKING:
    from csbench.backends.base import Backend
    from csbench.backends.conformance import Outcome, Report

FAILED = 3
verbose = click.option("-v", "--verbose", is_flag=True, expose_value=False, help="Show tracebacks.")


@click.group(invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """List backends, or test one for conformance.

    \b
    Examples:
      csbench backends
      csbench backends test block-original
      csbench backends test my_package:MyBackend --dtype fp16
    """
    if context.invoked_subcommand is None:
        click.echo(_table(_rows()))


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@verbose
def list_(as_json: bool) -> None:
    """List every backend: its patterns, precisions, devices, and what each device lacks."""
    rows = _rows()
    click.echo(_json(rows) if as_json else _table(rows))


@command.command()
@click.argument("name")
@click.option("-d", "--device", default="auto", show_default=True, help="cpu, cuda, cuda:1.")
@click.option("--dtype", help="A comma list of precisions; by default all that it runs.")
@click.option("--pattern", "pattern", help="A comma list of patterns; by default all.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of weights and inputs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@verbose
def test(
    name: str, device: str, dtype: str | None, pattern: str | None, seed: int, as_json: bool
) -> None:
    """Put backend NAME through the conformance kit; exit 3 where a check fails.

    NAME is a backend's name, or module:Class or FILE.py:Class. The kit checks declarations,
    correctness on awkward shapes, memory, streams and determinism, and that results are neither
    cached, nor deferred, nor left to another stream. A layer refused with a reason is no failure.
    """
    from csbench.backends import conformance

    backend = registry.get(name)
    where = _device(backend, device)
    dtypes = _chosen("precision", dtype, DTYPES, registry.dtypes(backend, where), backend.name)
    patterns = _chosen("pattern", pattern, None, backend.patterns, backend.name)
    reports: list[Report] = []
    refused: list[Report] = []
    for spec in patterns:
        for precision in dtypes:
            report = conformance.run(
                backend, device=where, dtype=precision, pattern=spec, seed=seed
            )
            # A backend may declare a precision that it runs on another device only.
            unasked = dtype is None and report.reasons == ("refuses-everything",)
            (refused if unasked else reports).append(report)
            if not as_json:
                click.echo(_report(report))
    reports = reports or refused
    if as_json:
        click.echo(_json([{"passed": r.passed, **msgspec.to_builtins(r)} for r in reports]))
    if not all(report.passed for report in reports):
        exit_with(FAILED)


def _rows() -> list[dict[str, Any]]:
    """Every backend as plain data; by device `status` says what is missing, None where ready, and
    `device_dtypes` its precisions there."""
    rows: list[dict[str, Any]] = []
    for listed in registry.listing():
        backend, entry = listed.backend, listed.entry
        row: dict[str, Any] = {"name": entry.name, "from": entry.origin, "problem": listed.problem}
        if backend is not None:
            row["patterns"] = sorted(backend.patterns)
            row["dtypes"] = [d for d in DTYPES if d in backend.dtypes]
            devices = sorted(backend.devices)
            row["device_dtypes"] = {
                device: [d for d in DTYPES if d in registry.dtypes(backend, device)]
                for device in devices
            }
            row["status"] = {device: registry.lack(backend, device) for device in devices}
        rows.append(row)
    return rows


def _table(rows: list[dict[str, Any]]) -> str:
    devices = ("cpu", "cuda")
    lines = [
        (
            row["name"], " ".join(row["patterns"]), " ".join(row["dtypes"]),
            *(_word(row, device) for device in devices), row["from"],
        )
        for row in rows
        if row["problem"] is None
    ]  # fmt: skip
    headers = ("backend", "patterns", "precisions", *devices, "from")
    missing = [
        f"{row['name']} on {device}: {lack}"
        for row in rows
        for device, lack in row.get("status", {}).items()
        if lack is not None
    ]
    broken = [row["problem"] for row in rows if row["problem"] is not None]
    return "\n".join([tabulate(lines, headers, "simple"), "", *missing, *broken]).rstrip()


def _word(row: dict[str, Any], device: str) -> str:
    """Whether a backend is ready on a device, and its precisions there where they are fewer."""
    if device not in row["status"]:
        return "--"
    word, own = "ready" if row["status"][device] is None else "missing", row["device_dtypes"]
    return word if own[device] == row["dtypes"] else f"{word}, {' '.join(own[device])} only"


def _device(backend: Backend, device: str) -> str:
    """The device to test on; raises BackendError where the backend is not ready on it."""
    kind = device.partition(":")[0]
    if device == "auto":
        own = sorted(backend.devices, reverse=True)  # cuda before cpu
        kind = device = next((d for d in own if not registry.lack(backend, d)), own[0])
    if kind not in backend.devices:
        known = unknown("device", kind, sorted(backend.devices))
        raise UsageError(f"backend '{backend.name}': {known}")
    lack = registry.lack(backend, device)
    if lack is not None:
        raise BackendError(f"backend '{backend.name}' is not ready on {device}: {lack}")
    return device


def _chosen(
    kind: str, given: str | None, known: tuple[str, ...] | None, own: frozenset[str], backend: str
) -> list[str]:
    """The values of a comma list, which must all be the backend's own; by default all of those."""
    if given is None:
        return [name for name in known or sorted(own) if name in own]
    values = [value.strip() for value in given.split(",")]
    for value in values:
        name = parse(value).name if kind == "pattern" else value
        if name not in own:
            raise UsageError(f"backend '{backend}': {unknown(kind, name, sorted(own))}")
    return values


def _report(report: Report) -> str:
    title = f"{report.backend} on {report.device}, {report.dtype}, {report.pattern}"
    verdict = "conforms" if report.passed else f"REJECTED: {', '.join(report.reasons)}"
    return "\n".join([f"{title}: {verdict}", *map(_line, report.outcomes)])


def _line(outcome: Outcome) -> str:
    word = "FAILED" if outcome.status == "failed" else outcome.status
    reason = f"{outcome.reason}: " if outcome.reason else ""
    return f"  {outcome.check:14} {word:8} {reason}{outcome.detail}".rstrip()


def _json(data: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(data), indent=2).decode()

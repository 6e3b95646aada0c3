"""csbench run: measure a suite of cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from csbench.cli.options import inference, measuring, output
from csbench.errors import UsageError


@click.command()
@click.argument("suite")
@click.option(
    "--devices",
    metavar="0,1",
    help="GPUs that share the cases, one worker process each; they share power and host too.",
)
@measuring()
@inference
@output
def command(
    suite: str, devices: str | None, measuring: dict[str, Any], inference: dict[str, Any],
    output: dict[str, Any],
) -> int:  # fmt: skip
    """Measure SUITE: one of smoke, table11, resnet50, ..., or a TOML file.

    \b
    Examples:
      csbench run smoke
      csbench run table11 --resume
      csbench run mine.toml --dry-run
    """
    from csbench.cli.execute import execute, settings
    from csbench.core.outcome import worst
    from csbench.core.suite import load

    read, gpus = load(_path(suite)), _gpus(devices)
    how = settings(measuring | inference, read.stop)
    training = [sweep for sweep in read.sweeps if "train-step" in sweep.task]
    others = [sweep for sweep in read.sweeps if sweep not in training]
    code = execute(others, how, output, gpus) if others else 0
    if training:
        from csbench.cli.training import execute_suite

        code = worst((code, execute_suite(training, how, output)))
    return code


def _path(suite: str) -> Path:
    """A file when it looks like one, else a suite that ships with csbench."""
    from csbench import resources

    looks_like_file = suite.endswith(".toml") or "/" in suite
    if looks_like_file and (Path(suite).exists() or "/" in suite):
        return Path(suite)
    return resources.path("suites", suite)


def _gpus(devices: str | None) -> tuple[str, ...]:
    if devices is None:
        return ()
    indices = tuple(part.strip() for part in devices.split(","))
    if not all(index.isdecimal() for index in indices) or len(set(indices)) < len(indices):
        raise UsageError(
            f"devices '{devices}' are no different GPU numbers; expected for example 0,1"
        )
    return indices

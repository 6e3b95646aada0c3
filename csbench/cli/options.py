"""Options that commands share, as decorators: how to measure, and where results go."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from csbench.core.stop import StopRule
from csbench.core.store import DEFAULT
from csbench.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])


def measuring(usual: StopRule | None = None) -> Callable[[F], F]:
    """How long and how carefully to measure; given to the command as the dict `measuring`.

    What the user leaves out is None there: then `usual` holds, or what a suite says.
    """

    def held(name: str) -> str:
        return "[the suite's]" if usual is None else f"[{getattr(usual, name):g}]"

    noise = "[the suite's]" if usual is None else f"[{usual.max_noise:.0%}]"
    options = (
        click.option(
            "-w", "--warmup", type=click.IntRange(0), metavar="N",
            help=f"Untimed runs of each {held('warmup')}.",
        ),
        click.option(
            "-r", "--runs", type=click.IntRange(1), metavar="N", help="Exactly N pairs of samples."
        ),
        click.option(
            "--min-time", type=float, metavar="S",
            help=f"Seconds of samples at least {held('min_time')}.",
        ),
        click.option(
            "--max-time", type=float, metavar="S",
            help=f"Seconds of samples at most {held('max_time')}.",
        ),
        click.option(
            "--max-noise", type=Fraction(), metavar="F",
            help=f"Stop when the interval's half-width is below this: 1% or 0.01 {noise}.",
        ),
        click.option(
            "--timeout", type=float, metavar="S", help=f"Kill a case after this {held('timeout')}."
        ),
        click.option(
            "--threads", type=click.IntRange(1), metavar="N", help="CPU threads of a worker."
        ),
    )  # fmt: skip
    names = ("warmup", "runs", "min_time", "max_time", "max_noise", "timeout", "threads")
    return lambda command: _gathered(command, options, "measuring", names)


def inference(command: F) -> F:
    """What only inference has of it; given to the command as the dict `inference`."""
    options = (
        click.option(
            "--copies", type=click.IntRange(1), metavar="N",
            help="Copies of each network, at addresses of their own, that are sampled in turn "
            "[8 on a CPU, 3 on a GPU, fewer where time or memory runs out].",
        ),
        click.option("--rtol", type=Fraction(), metavar="E", help="Allowed relative error."),
        click.option(
            "--cache", type=click.Choice(["cold", "warm"]),
            help="By default warm for networks, cold for layers.",
        ),
    )  # fmt: skip
    return _gathered(command, options, "inference", ("copies", "rtol", "cache"))


def output(command: F) -> F:
    """Where results and messages go; given to the command as the dict `output`."""
    options = (
        click.option(
            "-o", "--output", "path", type=click.Path(path_type=Path), default=DEFAULT,
            show_default=True, metavar="FILE", help="Append records to this file (JSON Lines).",
        ),
        click.option("--resume", is_flag=True, help="Skip cases that FILE holds with status ok."),
        click.option("--fail-fast", is_flag=True, help="Stop at the first case that fails."),
        click.option("--dry-run", is_flag=True, help="List the cases and measure nothing."),
        click.option("--json", "as_json", is_flag=True, help="Print records instead of tables."),
        click.option("-v", "--verbose", is_flag=True, help="A line a case; tracebacks."),
        click.option("-q", "--quiet", is_flag=True, help="Nothing but results."),
        click.option(
            "--color", type=click.Choice(["auto", "always", "never"]), default="auto",
            help="Of the progress bar; auto honours NO_COLOR.",
        ),
    )  # fmt: skip
    names = ("path", "resume", "fail_fast", "dry_run", "as_json", "verbose", "quiet", "color")
    return _gathered(command, options, "output", names)


class Fraction(click.ParamType):  # type: ignore[type-arg]
    """A small share, as a fraction (0.01) or a percentage (1%)."""

    name = "fraction"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        text = str(value).strip()
        try:
            number = float(text.removesuffix("%"))
        except ValueError:
            number = -1.0
        number = number / 100 if text.endswith("%") else number
        if not 0 < number < 1:
            self.fail(f"'{text}' is not a share between 0 and 1; type 1% or 0.01", param, ctx)
        return number


class Axis(click.ParamType):  # type: ignore[type-arg]
    """A comma list of values of one axis of csbench.core.axes."""

    name = "list"

    def __init__(self, axis: str) -> None:
        self.axis = axis

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        from csbench.core.axes import values

        if isinstance(value, tuple):  # a default
            return value
        parts = str(value).split(",")
        if not all(part.strip() for part in parts):
            raise UsageError(f"an empty value in --{self.axis} '{value}'; expected a comma list")
        return values(self.axis, parts)


def _gathered(
    command: F, options: tuple[Callable[[F], F], ...], into: str, names: tuple[str, ...]
) -> F:
    """The command with the options, which reach it as one dict: a command has few parameters."""

    @wraps(command)
    def run(**parameters: Any) -> Any:
        own = {name: parameters.pop(name) for name in names}
        return command(**parameters, **{into: own})

    decorated: Any = run
    for option in reversed(options):
        decorated = option(decorated)
    result: F = decorated
    return result

"""The command line: one small file a command; a command parses, makes one call, sets the exit code.

Commands load when they are chosen, so that help and completion import neither torch nor pandas.
"""

from __future__ import annotations

import errno
import importlib
import signal
import sys
from typing import Any

import click

from csbench import __version__
from csbench.errors import CsbenchError, unknown

INTERRUPTED = 130

# name -> one line of help; the module csbench.cli.NAME holds the click command `command`.
COMMANDS = {
    "infer": "Time a sparse network against the strongest dense version.",
    "train-time": "Time training steps of a sparsity scheme and project the hours.",
    "run": "Run a suite of cases, one worker process a device.",
    "report": "Write tables from records: text, Markdown, LaTeX, CSV, JSON, HTML.",
    "show": "Show records, one line each or one whole.",
    "inspect": "Say what sparsity a checkpoint holds, layer by layer.",
    "sparsify": "Prune a checkpoint or a model to a pattern and save it.",
    "backends": "List backends, or test one for conformance.",
    "patterns": "List sparsity patterns and what their parameters mean.",
    "doctor": "Say what is missing on this machine and how to get it.",
}

# A module of the name `run` would take the place of the function `run` below.
_MODULES = {"run": "run_suite"}


class LazyGroup(click.Group):
    """A group whose commands are imported when chosen, not when listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(
            f"csbench.cli.{_MODULES.get(name, name.replace('-', '_'))}"
        )
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            raise click.UsageError(unknown("command", args[0], COMMANDS), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
)
@click.version_option(__version__, prog_name="csbench")
@click.pass_context
def csbench(context: click.Context) -> None:
    """Benchmark sparse convolutional networks and write the paper's tables.

    \b
    Start with:
      csbench infer --model resnet50 --pattern block
      csbench report --format latex
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main() -> None:
    """Run the command line; every error becomes one line and the documented exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run the command line on `arguments` and return the exit code."""
    # A closed pipe (csbench report | head) ends the output, not with a traceback.
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        code = csbench.main(args=arguments, prog_name="csbench", standalone_mode=False)
    except click.exceptions.Exit as exit_:
        code = exit_.exit_code
    except click.ClickException as error:
        _say(_wrong_usage(error))
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted; what was measured is saved")
        code = INTERRUPTED
    except CsbenchError as error:
        if _verbose(arguments):
            raise
        _say(str(error))
        code = error.exit_code
    except OSError as error:
        if _verbose(arguments):
            raise
        _say(_os_error(error))
        code = 1
    except Exception as error:
        if _verbose(arguments):
            raise
        _say(f"{type(error).__name__}: {error} (this is a defect of csbench; -v shows where)")
        code = 1
    return code if isinstance(code, int) else 0


def _say(line: str) -> None:
    click.echo(f"csbench: {line}", err=True)


def _wrong_usage(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    line = " ".join(error.format_message().split()).rstrip(".")
    if context is None:
        return line
    more = f"type {context.command_path} --help"
    return f"{line} ({more})" if line.endswith("?") else f"{line}; {more}"


def _verbose(arguments: list[str]) -> bool:
    return any(a in ("-v", "--verbose", "-vv") for a in arguments)


def _os_error(error: OSError) -> str:
    what = "cannot write the output" if error.errno == errno.ENOSPC else "the system refused"
    if isinstance(error.filename, str):
        what = f"cannot use '{error.filename}'"
    return f"{what}: {error.strerror or error}; nothing measured so far is lost"


def exit_with(code: int) -> Any:
    """Leave the running command with a documented exit code."""
    raise click.exceptions.Exit(code)

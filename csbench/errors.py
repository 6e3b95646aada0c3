"""What can go wrong, as one tree; only the command line turns it into a line and an exit code.

CsbenchError                  1   the tool failed
+-- UsageError                2   a wrong argument
|   +-- PatternError              a pattern that does not parse, or a weight that breaks it
|   +-- CheckpointError           a file that is missing, damaged or does not fit the model
|   +-- ModelError                an unknown model, or one that cannot be traced
|   +-- SuiteError                a suite file with a wrong axis
|   +-- RecordError               a record file of an unknown schema, or foreign JSON
+-- BackendError              3   a backend that cannot be built or run here
+-- CaseTimeout             124   a case that outlived --timeout
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CsbenchError(Exception):
    """Root of all errors that csbench raises on purpose; the message is one clear line."""

    exit_code = 1


class UsageError(CsbenchError):
    """A wrong argument or input: the message says what was given, expected, and what to type."""

    exit_code = 2


class PatternError(UsageError):
    """A pattern specification that does not parse, or a weight that does not keep its pattern."""


class CheckpointError(UsageError):
    """A checkpoint that is missing, damaged, unsafe, or does not fit the model."""


class ModelError(UsageError):
    """An unknown model, or one that cannot be turned into a list of convolutions."""


class SuiteError(UsageError):
    """A suite file with an unknown or impossible axis."""


class RecordError(UsageError):
    """A record file that cannot be read: unknown schema, foreign JSON, no such file."""


class BackendError(CsbenchError):
    """A backend that cannot be built or run on this machine."""

    exit_code = 3


class CaseTimeout(CsbenchError):  # noqa: N818 (named as its status is)
    """A case that outlived its time limit."""

    exit_code = 124


def unknown(kind: str, given: str, known: Iterable[str], more: str = "") -> str:
    """The line for a name that does not exist: what was given, and the nearest names that do."""
    names = list(known)
    near = difflib.get_close_matches(given, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
    return f"unknown {kind} '{given}'; {hint}{' ' + more if more else ''}"

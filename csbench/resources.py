"""Suites, published values and templates: files that ship with csbench, found from any folder.

In the source tree they stand at the top level, for people; in a wheel under csbench/_data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from csbench.errors import UsageError, unknown

Kind = Literal["suites", "templates", "paper"]

_PACKAGE = Path(__file__).resolve().parent
# kind -> the folder in the source tree, and the suffix that a name leaves out.
_FOLDERS: dict[Kind, tuple[str, str]] = {
    "suites": ("suites", ".toml"),
    "templates": ("reports/templates", ""),
    "paper": ("reports/paper", ".toml"),
}


def folder(kind: Kind) -> Path:
    """The folder that holds all files of one kind."""
    shipped = _PACKAGE / "_data" / kind
    return shipped if shipped.is_dir() else _PACKAGE.parent / _FOLDERS[kind][0]


def names(kind: Kind) -> list[str]:
    """The names of one kind, sorted; suites and published tables without their `.toml`."""
    suffix = _FOLDERS[kind][1]
    files = (f.name for f in folder(kind).glob(f"*{suffix}") if f.is_file())
    return sorted(name.removesuffix(suffix) for name in files if not name.startswith("."))


def path(kind: Kind, name: str) -> Path:
    """The file of one name; raises UsageError with the names that exist."""
    known = names(kind)
    stem = name.removesuffix(_FOLDERS[kind][1])
    if stem not in known:
        what = {"suites": "suite", "templates": "template", "paper": "published table"}[kind]
        raise UsageError(unknown(what, name, known))
    return folder(kind) / f"{stem}{_FOLDERS[kind][1]}"

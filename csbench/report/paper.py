"""Published tables as data, and whether a measured one may be compared with them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from csbench import resources

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def published(name: str) -> dict[str, Any]:
    """A published table by name (`table10`, `table11`, `training_hours`), as its file has it."""
    return tomllib.loads(resources.path("paper", name).read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Comparability:
    """What of the setting agrees, what differs (published, measured), what one side leaves out."""

    same: tuple[str, ...]
    differs: tuple[tuple[str, str, str], ...]
    unknown: tuple[tuple[str, str], ...]

    @property
    def verdict(self) -> str:
        """`comparable`, `not comparable` where something differs, `unknown` where it may."""
        if self.differs:
            return "not comparable"
        return "unknown" if self.unknown else "comparable"

    def __str__(self) -> str:
        parts = [
            f"{name} differs ({theirs} published, {ours} measured)"
            for name, theirs, ours in self.differs
        ]
        if self.unknown:
            listed = ", ".join(f"{name} ({ours})" if ours else name for name, ours in self.unknown)
            parts.append(f"not stated in the source (measured in brackets): {listed}")
        if self.same:
            parts.append(f"same: {', '.join(self.same)}")
        return f"Comparability with the published values: {self.verdict}; {'; '.join(parts)}."


def compare(published: Mapping[str, str], measured: Mapping[str, str]) -> Comparability:
    """Set the published setting beside the measured one; an empty value is one not stated."""
    same, differs, unknown = [], [], []
    for name, theirs in published.items():
        ours = measured.get(name, "")
        if not theirs or not ours:
            unknown.append((name, ours))
        elif theirs == ours:
            same.append(name)
        else:
            differs.append((name, theirs, ours))
    return Comparability(tuple(same), tuple(differs), tuple(unknown))

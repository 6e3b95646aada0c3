"""Pattern names: the built-in families, and those that other packages add by entry points."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from csbench.core.pattern import PatternSpec, unknown_pattern
from csbench.errors import PatternError
from csbench.sparse.patterns.base import About, Pattern
from csbench.sparse.patterns.block import Block
from csbench.sparse.patterns.cs import CS
from csbench.sparse.patterns.dense import Dense
from csbench.sparse.patterns.nm import NM
from csbench.sparse.patterns.unstructured import Unstructured
from csbench.sparse.patterns.vector import OVW, ShflBW

GROUP = "csbench.patterns"
BUILT_IN: dict[str, type[Pattern]] = {
    "dense": Dense,
    "unstructured": Unstructured,
    "block": Block,
    "nm": NM,
    "ovw": OVW,
    "shfl-bw": ShflBW,
    "cs": CS,
}


@dataclass(frozen=True)
class Listed:
    """A pattern as `csbench patterns` shows it; `problem` says why it cannot be used."""

    name: str
    source: str  # "csbench", or the distribution that provides it
    about: About | None = None
    problem: str | None = None


def for_spec(spec: PatternSpec) -> Pattern:
    """The pattern that a specification names; a plug-in loads here, when it is chosen."""
    return family(spec.name)(spec)


def family(name: str) -> type[Pattern]:
    """The class behind a name; raises PatternError for unknown names and broken plug-ins."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    for entry in _entries():
        if entry.name == name:
            return _load(entry)
    raise unknown_pattern(name, tuple({**BUILT_IN, **{e.name: e for e in _entries()}}))


def listing() -> list[Listed]:
    """Every pattern, plug-ins loaded; a broken one is reported by name and does no harm."""
    found = [Listed(name, "csbench", kind.about) for name, kind in BUILT_IN.items()]
    for entry in _entries():
        source = entry.dist.name if entry.dist is not None else entry.value
        if any(entry.name == listed.name for listed in found):
            problem = f"the name '{entry.name}' is taken; csbench ignores this one"
            found.append(Listed(entry.name, source, problem=problem))
            continue
        try:
            found.append(Listed(entry.name, source, _load(entry).about))
        except PatternError as error:
            found.append(Listed(entry.name, source, problem=str(error)))
    return found


def _entries() -> list[EntryPoint]:
    """The entry points of the group, in order of their names."""
    return sorted(entry_points(group=GROUP), key=lambda entry: entry.name)


def _load(entry: EntryPoint) -> type[Pattern]:
    where = f"pattern plug-in '{entry.name}' ({entry.value})"
    try:
        kind = entry.load()
    except Exception as error:  # whatever a stranger's module does at import
        raise PatternError(
            f"{where} does not load: {type(error).__name__}: {error}; "
            "repair or uninstall the package that provides it"
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, Pattern) and hasattr(kind, "about")):
        raise PatternError(
            f"{where} is not a subclass of csbench.sparse.patterns.Pattern with an `about`"
        )
    return kind

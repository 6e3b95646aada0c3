"""Backends by name: built-in, from a package's entry point, or `module:Class` / `FILE.py:Class`.

Nothing is imported before it is chosen. A plug-in cannot shadow a built-in name, and a broken one
is reported by its name and disturbs nobody else.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csbench.errors import BackendError, UsageError, unknown

if TYPE_CHECKING:
    from csbench.backends.base import Backend

GROUP = "csbench.backends"

BUILT_IN = {
    "cudnn": "csbench.backends.dense.cudnn:Cudnn",
    "onednn": "csbench.backends.dense.onednn:OneDnn",
    "inductor": "csbench.backends.dense.inductor:Inductor",
    "block-original": "csbench.backends.block.original:BlockOriginal",
    "block-cutlass": "csbench.backends.block.cutlass:BlockCutlass",
    "cs": "csbench.backends.cs.backend:Cs",
    "nm": "csbench.backends.nm.backend:Nm",
    "nm-cusparselt": "csbench.backends.nm.cusparselt:NmCusparselt",
    "ovw": "csbench.backends.vector.backend:Ovw",
    "shfl-bw": "csbench.backends.vector.backend:ShflBw",
    "block-vectors": "csbench.backends.vector.backend:BlockVectors",
    "csr": "csbench.backends.csr.backend:Csr",
    "cs-dense": "csbench.backends.dense.own:CsDense",
    "tensorrt": "csbench.backends.tensorrt.backend:TensorRt",
    "masked": "csbench.backends.dense.masked:Masked",
    "fake": "csbench.backends.fake:Fake",
}
DENSE_BASELINE = {"cpu": "onednn", "cuda": "cudnn"}
# Timed beside every baseline of a device, so that the best dense way is known.
DENSE_ALTERNATIVES: dict[str, tuple[str, ...]] = {"cpu": (), "cuda": ("cs-dense",)}
NEVER_BY_DEFAULT = ("inductor", "tensorrt", "masked", "fake")  # chosen by name only
GENERAL = ("csr",)  # takes any zeros: by default only for a pattern that nothing else is made for

ATTRIBUTES = ("name", "patterns", "devices", "dtypes", "missing", "why_not", "lower")


@dataclass(frozen=True)
class Entry:
    """Where a backend comes from: `target` is `module:Class`, `origin` a package or "built-in"."""

    name: str
    target: str
    origin: str
    problem: str | None = None  # why it cannot be used, known without loading it


@dataclass(frozen=True)
class Listed:
    """An entry that was tried: its backend, or in one line why there is none."""

    entry: Entry
    backend: Backend | None
    problem: str | None


def names() -> tuple[str, ...]:
    """Names that can be chosen, built-ins first."""
    return tuple(entry.name for entry in entries() if entry.problem is None)


def entries() -> tuple[Entry, ...]:
    """All entries, also those that clash with another's name; nothing is loaded."""
    found = [Entry(name, target, "built-in") for name, target in BUILT_IN.items()]
    taken = dict.fromkeys(BUILT_IN, "built-in")
    for point in sorted(entry_points(group=GROUP), key=lambda p: p.name):
        origin = _package(point)
        clash = taken.get(point.name)
        problem = (
            None
            if clash is None
            else f"plug-in '{point.name}' of {origin} is ignored: the name belongs to "
            f"{'a built-in backend' if clash == 'built-in' else clash}"
        )
        taken.setdefault(point.name, origin)
        found.append(Entry(point.name, point.value, origin, problem))
    return tuple(found)


def listing() -> tuple[Listed, ...]:
    """Every entry, loaded where it can be."""
    return tuple(_tried(entry) for entry in entries())


def get(name: str) -> Backend:
    """The backend of that name, or at `module:Class` or `FILE.py:Class`.

    Raises UsageError for an unknown name and BackendError for one that does not load.
    """
    for entry in entries():
        if entry.name == name and entry.problem is None:
            return _load(entry)
    if ":" not in name:
        raise UsageError(unknown("backend", name, names(), "(or module:Class, FILE.py:Class)"))
    backend = _load(Entry(name, name, "the command line"))
    if backend.name in BUILT_IN:
        raise UsageError(
            f"backend '{name}' calls itself '{backend.name}', a built-in name; "
            "give its class another `name`"
        )
    return backend


def for_pattern(pattern: str, device: str, dtype: str) -> tuple[str, ...]:
    """The default backends of a pattern (its name) on "cpu" or "cuda": those that can run it.

    Where none is ready, those that could be: their rows then say what is missing.
    """
    able = {
        name: backend
        for name, backend in of_pattern(pattern).items()
        if device in backend.devices and dtype in dtypes(backend, device)
    }
    ready = tuple(name for name, backend in able.items() if lack(backend, device) is None)
    return ready or tuple(able)


def of_pattern(pattern: str) -> dict[str, Backend]:
    """The backends made for a pattern on any device, else those of GENERAL that take it.

    Those of NEVER_BY_DEFAULT are never among them.
    """
    found = {
        listed.entry.name: listed.backend
        for listed in listing()
        if listed.backend is not None
        and listed.entry.name not in NEVER_BY_DEFAULT
        and pattern in listed.backend.patterns
    }
    return {name: backend for name, backend in found.items() if name not in GENERAL} or found


def dtypes(backend: Backend, device: str) -> frozenset[str]:
    """The precisions of a backend on a device: fewer than its `dtypes` where it says so."""
    fewer: Mapping[str, frozenset[str]] = getattr(backend, "device_dtypes", {})
    return fewer.get(device.partition(":")[0], backend.dtypes)


def lack(backend: Backend, device: str) -> str | None:
    """What this machine lacks to run it; a plug-in whose own check fails lacks that."""
    try:
        return backend.missing(device)
    except Exception as error:  # third-party code may raise anything
        return f"its check of {device} fails: {type(error).__name__}: {error}"


def dense_baseline(device: str) -> str:
    """The strongest dense backend of a device, which speed-ups are measured against."""
    kind = device.partition(":")[0]
    if kind not in DENSE_BASELINE:
        raise UsageError(unknown("device", device, DENSE_BASELINE))
    return DENSE_BASELINE[kind]


def _tried(entry: Entry) -> Listed:
    if entry.problem is not None:
        return Listed(entry, None, entry.problem)
    try:
        return Listed(entry, _load(entry), None)
    except BackendError as error:
        return Listed(entry, None, str(error))


def _load(entry: Entry) -> Backend:
    try:
        backend: Any = _target(entry.target)()
    except Exception as error:  # third-party code may raise anything
        raise BackendError(
            f"backend '{entry.name}' of {entry.origin} is broken: {type(error).__name__}: {error}"
        ) from error
    lacking = [name for name in ATTRIBUTES if not hasattr(backend, name)]
    if lacking:
        raise BackendError(
            f"backend '{entry.name}' of {entry.origin} is broken: it has no "
            f"{', '.join(lacking)} (see csbench.backends.base.Backend)"
        )
    loaded: Backend = backend
    return loaded


def _target(target: str) -> Any:
    source, _, attribute = target.rpartition(":")
    if source.endswith(".py"):
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"no file '{source}'; expected FILE.py:Class")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(source)
    return getattr(module, attribute)


def _package(point: EntryPoint) -> str:
    return f"package {point.dist.name}" if point.dist is not None else "an unnamed package"

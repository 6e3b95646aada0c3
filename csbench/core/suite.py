"""Suites: TOML files that say what to measure as products of axes; no Python, no figures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from csbench.core.axes import AXES, Sweep, values
from csbench.core.stop import StopRule
from csbench.errors import SuiteError, UsageError, unknown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_KEYS = ("title", "stop", "cases")


class Suite(msgspec.Struct, frozen=True, kw_only=True):
    """What a suite file says: products of axes, and when each measurement is long enough."""

    name: str
    title: str
    sweeps: tuple[Sweep, ...]
    stop: StopRule = StopRule()


def load(path: str | Path) -> Suite:
    """Read a suite file; raises SuiteError naming the file, the key and the nearest right ones."""
    path = Path(path)
    table = _table(path)
    for key in table:
        if key not in _KEYS:
            raise SuiteError(f"{path}: {unknown('key', key, _KEYS)}")
    cases = table.get("cases")
    if not isinstance(cases, list) or not cases or not all(isinstance(c, dict) for c in cases):
        raise SuiteError(f'{path}: no cases; add a table [[cases]] with model = "resnet50"')
    return Suite(
        name=path.stem,
        title=str(table.get("title", path.stem)),
        sweeps=tuple(_sweep(f"{path}, cases {i}", c, path) for i, c in enumerate(cases, start=1)),
        stop=_stop(path, table.get("stop", {})),
    )


def _table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SuiteError(f"no suite file '{path}'") from None
    except OSError as error:
        raise SuiteError(f"cannot read suite '{path}': {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SuiteError(f"{path}: not TOML: {error}") from None


def _sweep(where: str, table: dict[str, Any], path: Path) -> Sweep:
    axes: dict[str, Any] = {}
    for axis, value in table.items():
        if axis not in AXES:
            raise SuiteError(f"{where}: {unknown('axis', axis, AXES)}")
        axes[axis] = _axis(where, axis, value)
    if "model" not in axes:
        raise SuiteError(f"{where}: the axis 'model' is missing; add model = \"resnet50\"")
    # A checkpoint stands beside its suite, wherever the command is typed.
    beside = tuple(str(path.parent / file) for file in axes.pop("checkpoint", ()))
    return Sweep(**axes, checkpoint=beside)


def _axis(where: str, axis: str, value: Any) -> tuple[Any, ...]:
    items = value if isinstance(value, list) else [value]
    if not items:
        raise SuiteError(
            f"{where}: axis '{axis}' is empty; leave it out for the default, "
            f"or write {axis} = {AXES[axis].example}"
        )
    for item in items:
        if isinstance(item, bool) or not isinstance(item, str | int | float):
            raise SuiteError(
                f"{where}: axis '{axis}' holds {item!r}; expected {axis} = {AXES[axis].example}"
            )
    try:
        return values(axis, (str(item) for item in items))
    except UsageError as error:
        raise SuiteError(f"{where}: axis '{axis}': {error}") from None


def _stop(path: Path, table: Any) -> StopRule:
    known = StopRule.__struct_fields__
    if not isinstance(table, dict):
        raise SuiteError(f"{path}: 'stop' is not a table; write [stop] and max_noise = 0.01")
    for key in table:
        if key not in known:
            raise SuiteError(f"{path}, stop: {unknown('key', key, known)}")
    try:
        return msgspec.convert(table, StopRule)
    except (msgspec.ValidationError, UsageError) as error:
        raise SuiteError(f"{path}, stop: {error}") from None

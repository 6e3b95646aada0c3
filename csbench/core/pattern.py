"""Pattern specifications: `name[:parameters][@sparsity]`; parse() and str() are inverses."""

from __future__ import annotations

import re

import msgspec

from csbench.errors import PatternError, unknown

# Defaults of the parameters that may be left out. An entry point of group `csbench.patterns`
# adds names at run time (csbench.sparse.patterns); their parameters are free integers.
BUILT_IN = ("dense", "unstructured", "block", "nm", "ovw", "shfl-bw", "cs")
BY_SPARSITY_M = {0.0: 1, 0.5: 2, 0.75: 4, 0.875: 8, 0.9375: 16}

_SPEC = re.compile(r"(?P<name>[a-z][a-z0-9_-]*)(?P<parameters>(?::[^:@]+)*)(?:@(?P<sparsity>.+))?")


class PatternSpec(msgspec.Struct, frozen=True, order=True):
    """A sparsity pattern by name, with its integer parameters and the sparsity asked for.

    `parameters` is empty where the default applies or the sparsity decides (`nm@75%` is 1:4).
    """

    name: str
    parameters: tuple[int, ...] = ()
    sparsity: float | None = None

    def __str__(self) -> str:
        text = self.name
        if self.parameters:
            joint = "x" if self.name == "block" else ":"
            text += ":" + joint.join(str(p) for p in self.parameters)
        if self.sparsity is not None:
            text += f"@{self.sparsity!r}"
        return text

    @property
    def family(self) -> str:
        """The specification without its sparsity, as the records and tables name it."""
        return str(PatternSpec(self.name, self.parameters))

    @property
    def own_sparsity(self) -> float | None:
        """The sparsity asked for, or the one that the parameters imply (`nm:2:4` is 0.5)."""
        if self.sparsity is not None:
            return self.sparsity
        if self.name == "nm" and self.parameters:
            return 1 - self.parameters[0] / self.parameters[1]
        if self.name == "cs" and self.parameters:
            return 1 - 1 / self.parameters[0]
        return 0.0 if self.name == "dense" else None

    def at(self, sparsity: float) -> PatternSpec:
        """This pattern with all parameters filled in for one sparsity (a fraction).

        Raises PatternError where the pattern cannot give that sparsity.
        """
        return _resolve(PatternSpec(self.name, self.parameters, sparsity))


def parse(text: str) -> PatternSpec:
    """Parse `block:32x32@75%`, `nm:2:4`, `cs:16`, `ovw:32@0.875`, `dense`; raises PatternError."""
    match = _SPEC.fullmatch(text.strip().lower())
    if match is None:
        raise PatternError(
            f"pattern '{text}' does not parse; expected name[:parameters][@sparsity], "
            "for example block:32x32@75% or nm:2:4"
        )
    name = match["name"]
    numbers = [p for p in re.split(r"[:x]", match["parameters"]) if p]
    if not all(n.isdecimal() and int(n) > 0 for n in numbers):
        raise PatternError(
            f"pattern '{text}' has parameters '{match['parameters'][1:]}'; "
            "expected positive whole numbers, for example block:32x32 or nm:2:4"
        )
    sparsity = None if match["sparsity"] is None else parse_sparsity(match["sparsity"])
    spec = PatternSpec(name, tuple(int(n) for n in numbers), sparsity)
    _check(spec, text)
    return spec


def parse_sparsity(text: str) -> float:
    """A fraction (`0.75`) or a percentage (`75%`, or a number above 1) as a fraction in [0, 1)."""
    body = text.strip()
    try:
        value = float(body.removesuffix("%"))
    except ValueError:
        value = float("nan")
    if body.endswith("%") or value > 1:
        value /= 100
    if not 0 <= value < 1:
        raise PatternError(
            f"sparsity '{text}' is not between 0 and 100 %; type a fraction (0.75) "
            "or a percentage (75%)"
        )
    return value


def _check(spec: PatternSpec, text: str) -> None:
    if spec.name not in BUILT_IN:
        return  # a plug-in's: csbench.sparse.patterns knows whether it exists
    counts = {"dense": (0,), "unstructured": (0,), "block": (0, 2), "nm": (0, 2)}
    allowed = counts.get(spec.name, (0, 1, 2) if spec.name == "cs" else (0, 1))
    if len(spec.parameters) not in allowed:
        example = {"block": "block:32x32", "nm": "nm:2:4", "cs": "cs:16"}.get(spec.name, spec.name)
        raise PatternError(
            f"pattern '{text}' has {len(spec.parameters)} parameters; expected "
            f"{' or '.join(str(n) for n in allowed)}, for example {example}"
        )
    if spec.name == "nm" and spec.parameters and spec.parameters[0] > spec.parameters[1]:
        raise PatternError(f"pattern '{text}' keeps more than there are; expected N <= M: nm:2:4")
    if spec.name == "cs" and len(spec.parameters) == 2 and spec.parameters[1] % spec.parameters[0]:
        raise PatternError(f"pattern '{text}': the span must be a multiple of M, e.g. cs:4:16")
    if spec.sparsity is not None:
        _resolve(spec)


def _resolve(spec: PatternSpec) -> PatternSpec:
    name, parameters, s = spec.name, spec.parameters, spec.sparsity
    if name == "nm":
        if not parameters:
            parameters = _default_nm(spec)
        n, m = parameters
        _same(spec, 1 - n / m, f"{n}:{m}")
    elif name == "cs":
        if not parameters:
            m = _m_for(spec)
            parameters = (m,)
        _same(spec, 1 - 1 / parameters[0], f"cs:{parameters[0]}")
    elif name == "block" and not parameters:
        parameters = (32, 32)
    elif name in ("ovw", "shfl-bw") and not parameters:
        parameters = (32,)
    elif name == "dense" and s:
        raise PatternError(
            f"pattern 'dense' is 0 % sparse, not {100 * s:g} %; leave the sparsity out"
        )
    return PatternSpec(name, parameters, s)


def _default_nm(spec: PatternSpec) -> tuple[int, int]:
    m = _m_for(spec)
    return (2, 4) if m == 2 else (1, m)


def _m_for(spec: PatternSpec) -> int:
    assert spec.sparsity is not None
    for fraction, m in BY_SPARSITY_M.items():
        if abs(spec.sparsity - fraction) < 1e-6:
            return m
    raise PatternError(
        f"pattern '{spec.name}' cannot give {100 * spec.sparsity:g} %; "
        "it gives 0, 50, 75, 87.5 and 93.75 %"
        + (", or others by name: nm:3:4" if spec.name == "nm" else "")
    )


def _same(spec: PatternSpec, own: float, label: str) -> None:
    if spec.sparsity is not None and abs(spec.sparsity - own) > 1e-6:
        raise PatternError(
            f"pattern '{spec.name}' with {label} is {100 * own:g} % sparse, "
            f"not {100 * spec.sparsity:g} %; leave the sparsity out, or the parameters"
        )


def unknown_pattern(name: str, known: tuple[str, ...]) -> PatternError:
    """The error for a pattern name that nobody provides."""
    return PatternError(unknown("pattern", name, known, "(see csbench patterns)"))

"""The training schemes by name; a name also says which pattern it trains to."""

from __future__ import annotations

from csbench.core.pattern import PatternSpec, parse
from csbench.errors import UsageError, unknown
from csbench.training.schemes.base import Scheme
from csbench.training.schemes.block import Block
from csbench.training.schemes.cs import CS
from csbench.training.schemes.cs_c import CSC
from csbench.training.schemes.dense import Dense
from csbench.training.schemes.nm import NM
from csbench.training.schemes.nm_argsort import NMArgsort
from csbench.training.schemes.ovw import OVW
from csbench.training.schemes.shfl_bw import ShflBW
from csbench.training.schemes.unstructured import Unstructured

SCHEMES: dict[str, type[Scheme]] = {
    kind.name: kind for kind in (Dense, NM, CS, CSC, OVW, ShflBW, Block, Unstructured, NMArgsort)
}
SPARSITY = 0.5  # where none is asked for: 2:4, the ratio that hardware knows

__all__ = ["SCHEMES", "SPARSITY", "Scheme", "make", "specify"]


def specify(text: str, sparsity: float | None = None) -> tuple[str, PatternSpec]:
    """A scheme's name and its pattern, all parameters filled in: `nm`, `cs:4`, `cs-c@75%`, ...

    Raises UsageError for a name that is no scheme, PatternError for a pattern that cannot be.
    """
    name, rest = _split(text.strip().lower())
    if name not in SCHEMES:
        raise UsageError(unknown("training scheme", name, SCHEMES))
    spec = parse(SCHEMES[name].pattern + rest)
    if spec.name == "dense":
        return name, spec.at(0.0)
    own = spec.own_sparsity
    wanted = sparsity if sparsity is not None else own if own is not None else SPARSITY
    return name, spec.at(wanted)


def _split(text: str) -> tuple[str, str]:
    """The name, and the parameters and sparsity with their marks."""
    ends = [at for mark in ":@" if (at := text.find(mark)) >= 0]
    end = min(ends, default=len(text))
    return text[:end], text[end:]


def make(name: str, spec: PatternSpec, interval: int) -> Scheme:
    """The scheme of a name, for one training."""
    return SCHEMES[name](spec, interval)

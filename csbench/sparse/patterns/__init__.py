"""Sparsity patterns: which weights a name keeps, one file per family."""

from csbench.sparse.patterns.base import About, Pattern, Verdict
from csbench.sparse.patterns.detect import detect, explaining, is_dense, sparsity, tightest
from csbench.sparse.patterns.registry import BUILT_IN, Listed, family, for_spec, listing

__all__ = [
    "BUILT_IN",
    "About",
    "Listed",
    "Pattern",
    "Verdict",
    "detect",
    "explaining",
    "family",
    "for_spec",
    "is_dense",
    "listing",
    "sparsity",
    "tightest",
]

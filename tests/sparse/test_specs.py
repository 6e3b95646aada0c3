"""A specification reads back as what was written, and says which sparsity it has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csbench.core.pattern import PatternSpec, parse
from csbench.errors import PatternError

small = st.integers(1, 512)
fraction = st.none() | st.floats(0, 1, exclude_max=True)
specs = st.one_of(
    st.just(PatternSpec("dense")),
    st.builds(lambda s: PatternSpec("unstructured", (), s), fraction),
    st.builds(lambda r, c, s: PatternSpec("block", (r, c), s), small, small, fraction),
    st.builds(lambda v, s: PatternSpec("ovw", (v,), s), small, fraction),
    st.builds(lambda v, s: PatternSpec("shfl-bw", (v,), s), small, fraction),
    st.builds(lambda n, more: PatternSpec("nm", (n, n + more)), small, st.integers(0, 64)),
    st.builds(lambda m: PatternSpec("cs", (m,)), small),
    st.builds(lambda m, times: PatternSpec("cs", (m, m * times)), small, small),
)


@given(specs)
def test_parse_and_str_are_inverses(spec: PatternSpec) -> None:
    assert parse(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "sparsity"),
    [("dense", 0), ("nm:2:4", 0.5), ("cs:16", 0.9375), ("block@75%", 0.75), ("ovw:32", None)],
)
def test_own_sparsity(text: str, sparsity: float | None) -> None:
    assert parse(text).own_sparsity == sparsity


@pytest.mark.parametrize(
    "text", ["cs@0.6", "nm:2:4@0.75", "dense@0.5", "block:32", "nm:4:2", "cs:4:6"]
)
def test_what_a_pattern_cannot_give_is_refused(text: str) -> None:
    with pytest.raises(PatternError):
        parse(text)

"""csbench patterns: every pattern with its parameters, sparsities and what is kept."""

from __future__ import annotations

import json

import pytest

from csbench.cli import run
from csbench.core.pattern import BUILT_IN, parse
from csbench.sparse.patterns import for_spec


def test_every_pattern_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["patterns"]) == 0
    out = capsys.readouterr().out
    assert all(any(line.startswith(f"{name} ") for line in out.splitlines()) for name in BUILT_IN)
    assert "Zhao et al., TMLR 2023" in out


def test_json_and_examples_that_parse(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["patterns", "--json"]) == 0
    listed = {p["name"]: p for p in json.loads(capsys.readouterr().out)}
    assert set(listed) >= set(BUILT_IN)
    for name in BUILT_IN:
        assert listed[name]["problem"] is None
        spec = parse(listed[name]["about"]["example"])
        assert spec.name == name
        assert spec.own_sparsity is not None
        for_spec(spec)

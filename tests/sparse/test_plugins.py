"""Patterns of other packages: loaded when chosen, never in place of a built-in, broken by name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from csbench.core.pattern import parse
from csbench.errors import PatternError
from csbench.sparse.patterns import BUILT_IN, for_spec, listing

PLUGIN = '''
import torch
from csbench.sparse.formats import CsrPacked
from csbench.sparse.patterns import About, Pattern

class Checkers(Pattern):
    """Every other weight."""

    about = About("", "50 %", "every other weight", "checkers@0.5")

    def mask(self, weight, sparsity=None):
        return (torch.arange(weight.numel()) % 2 == 0).reshape(weight.shape)

    def pack(self, weight):
        return CsrPacked.pack(weight)

class NotOne:
    pass
'''


@pytest.fixture
def plugged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkers_plugin.py").write_text(PLUGIN)
    (tmp_path / "broken_plugin.py").write_text("raise RuntimeError('no such library')")
    info = tmp_path / "checkers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: checkers\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[csbench.patterns]\n"
        "checkers = checkers_plugin:Checkers\n"
        "cs = checkers_plugin:Checkers\n"
        "broken = broken_plugin:Broken\n"
        "other = checkers_plugin:NotOne\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("checkers_plugin", "broken_plugin"):
        monkeypatch.delitem(sys.modules, module, raising=False)


@pytest.mark.usefixtures("plugged")
def test_a_plug_in_is_a_pattern_like_any_other() -> None:
    assert "checkers_plugin" not in sys.modules
    pattern = for_spec(parse("checkers@0.5"))
    assert "checkers_plugin" in sys.modules
    weight = torch.randn(6, 8, 3, 3)
    pruned = weight * pattern.mask(weight)
    assert pattern.verify(pruned).ok
    assert pattern.verify(weight).violations == weight.numel() // 2
    assert torch.equal(pattern.pack(pruned).unpack(), pruned)


@pytest.mark.usefixtures("plugged")
def test_a_built_in_cannot_be_shadowed() -> None:
    assert type(for_spec(parse("cs:4"))) is BUILT_IN["cs"]
    problems = {p.problem for p in listing() if p.name == "cs"}
    assert problems == {None, "the name 'cs' is taken; csbench ignores this one"}


@pytest.mark.usefixtures("plugged")
def test_a_broken_one_is_reported_by_name_and_does_no_harm() -> None:
    found = {p.name: p.problem or "" for p in listing() if p.source == "checkers"}
    assert found["checkers"] == ""
    assert "'broken' (broken_plugin:Broken) does not load: RuntimeError: no such" in found["broken"]
    assert "is not a subclass" in found["other"]
    for_spec(parse("nm:2:4"))
    with pytest.raises(PatternError, match="pattern plug-in 'broken'"):
        for_spec(parse("broken"))


@pytest.mark.usefixtures("plugged")
def test_an_unknown_name_suggests_plug_ins_too() -> None:
    with pytest.raises(PatternError, match="did you mean checkers"):
        for_spec(parse("chekers"))

"""The figure: what becomes a line, what a horizontal, and the files that come out."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from csbench.errors import UsageError
from csbench.report.dense import Way
from csbench.report.figure import dense_lines, draw, lines, name_lines
from csbench.report.rows import rows
from tests.report.made import block_records, compared_records, layer_records, record

BEGINNINGS = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


def test_a_pattern_is_one_line_of_its_fastest_backends() -> None:
    found = lines(rows(compared_records()))
    assert {label: [row.case.sparsity for row in line] for label, line in found.items()} == {
        "nm": [0, 0.5, 0.75], "cs": [0, 0.5, 0.75],
    }  # fmt: skip
    assert {row.case.backend for line in found.values() for row in line} == {"nm", "cs"}
    both = lines(rows(block_records()))  # two backends, of which one fails at high sparsities
    assert [row.case.backend for row in both["block:32x32"]] == [
        *["block-cutlass"] * 3, *["block-original"] * 2,
    ]  # fmt: skip
    alone = lines(rows([record(0.5)]))
    assert list(alone) == ["block:32x32 (block-original)"]


def test_dense_ways_are_the_baseline_and_the_best_of_both_kinds() -> None:
    ways = dense_lines(rows(compared_records()))
    assert [way.name for way in ways] == ["cudnn fp32", "cs fp32 at 0 %", "cudnn fp16"]


@pytest.mark.parametrize("suffix", BEGINNINGS)
def test_the_same_records_give_the_same_file(suffix: str, tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for path in paths:
        draw(compared_records() + block_records(), path)
    first, second = (path.read_bytes() for path in paths)
    assert first.startswith(BEGINNINGS[suffix])
    assert first == second


def test_a_vector_figure_names_axes_units_patterns_and_dense_lines(tmp_path: Path) -> None:
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none"}):  # texts as texts
        more = [record(sparsity, 3.0, batch=8) for sparsity in (0.5, 0.75)]
        draw([*compared_records(), *more, record(0.5, 3.0, batch=64)], tmp_path / "a.svg")
    svg = (tmp_path / "a.svg").read_text()
    for words in ("Sparsity (%)", "Latency (ms)", "cudnn fp16", "batch 8", ">nm<", ">75<"):
        assert words in svg, words
    assert "batch 64" not in svg  # a single sparsity makes no line


def test_names_of_dense_lines_that_lie_together_do_not_cover_each_other() -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    axes.set_yscale("log")
    axes.set_ylim(1, 100)
    name_lines(axes, [Way("far", "fp32", 3.0), Way("low", "fp32", 20.0), Way("high", "fp32", 21.0)])
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["far", "high\nlow"]
    assert axes.texts[1].xy[1] == 21.0


def test_what_cannot_be_drawn_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"unknown kind of figure '.tex'; known: .png, .svg, .pdf"):
        draw(compared_records(), tmp_path / "a.tex")
    with pytest.raises(UsageError, match=r"nothing for a figure.*--pattern all"):
        draw(layer_records(), tmp_path / "a.png")
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"pip install 'csbench\[plots\]'"):
        draw(compared_records(), tmp_path / "a.png")

"""The figure: the files that come out, what they say, and what cannot be drawn."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from csbench.errors import UsageError
from csbench.report.figure import draw
from tests.report.made import block_records, compared_records, layer_records, record

BEGINNINGS = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


@pytest.mark.parametrize("suffix", BEGINNINGS)
def test_the_same_records_give_the_same_file(suffix: str, tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for path in paths:
        draw(compared_records() + block_records(), path)
    first, second = (path.read_bytes() for path in paths)
    assert first.startswith(BEGINNINGS[suffix])
    assert first == second


def test_a_vector_figure_names_what_it_shows(tmp_path: Path) -> None:
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none"}):  # texts as texts
        more = [record(sparsity, 3.0, batch=8) for sparsity in (0.5, 0.75)]
        draw([*compared_records(), *more, record(0.5, 3.0, batch=64)], tmp_path / "a.svg")
    svg = (tmp_path / "a.svg").read_text()
    for words in (
        "Sparsity (%)", "Latency (ms)", "cudnn fp16", ">batch 8<", ">nm<", ">75<",
        ">resnet50, input 3x224x224, fp32, Test GPU 80GB<", ">block:32x32 (block-original)<",
    ):  # fmt: skip
        assert words in svg, words
    assert "batch 64" not in svg  # a single sparsity makes no line


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

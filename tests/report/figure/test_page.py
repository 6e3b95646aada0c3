"""The title, the panels' titles and the legend."""

from __future__ import annotations

from csbench.report.figure.lines import panels
from csbench.report.figure.page import page, titles
from csbench.report.rows import rows
from tests.report.made import block_records, compared_records, record


def test_what_panels_share_is_said_once_and_what_differs_above_each() -> None:
    eight = [record(sparsity, 3.0, batch=8, dtype="fp16") for sparsity in (0.5, 0.75)]
    common, own = titles(panels(rows([*compared_records(), *eight])))
    assert common == "resnet50, input 3x224x224, Test GPU 80GB"
    assert own == ["batch 1, fp32", "batch 8, fp16"]
    alone, none = titles(panels(rows(compared_records())))
    assert alone == "resnet50, input 3x224x224, batch 1, fp32, Test GPU 80GB"
    assert none == [""]


def test_panels_that_only_their_baseline_tells_apart_name_it() -> None:
    other = [record(sparsity, 3.0, baseline="inductor") for sparsity in (0.5, 0.75)]
    common, own = titles(panels(rows([*compared_records(), *other])))
    assert "baseline" not in common
    assert own == ["baseline cudnn", "baseline inductor"]


def test_the_legend_has_each_line_once_under_the_title() -> None:
    both = [*compared_records(), *block_records()]
    eight = [record(sparsity, 3.0, batch=8) for sparsity in (0.5, 0.75)]
    figure = page(panels(rows([*both, *eight])))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "block:32x32 (block-cutlass)", "block:32x32 (block-original)", "nm", "cs",
        "dense, named beside",
    ]  # fmt: skip
    assert legend.get_title().get_text() == "resnet50, input 3x224x224, fp32, Test GPU 80GB"


def test_a_title_too_long_for_its_column_breaks_after_a_comma() -> None:
    (legend,) = page(panels(rows(compared_records()))).legends
    title = legend.get_title().get_text()
    assert title == "resnet50, input 3x224x224, batch 1, fp32,\nTest GPU 80GB"

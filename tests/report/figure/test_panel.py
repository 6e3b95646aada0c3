"""One panel: marks at their true places, and names of dense lines that do not cover each other."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from csbench.report.dense import Way
from csbench.report.figure.lines import lines, runners
from csbench.report.figure.looks import looks
from csbench.report.figure.panel import draw_panel, name_lines
from csbench.report.rows import rows
from tests.report.made import block_records, compared_records


def test_every_mark_is_its_backends_and_stands_at_its_time() -> None:
    panel = rows([*compared_records(), *block_records()])
    found = looks(runners([panel]))
    axes = Figure().subplots()
    draw_panel(axes, panel, found)
    points = [(line.get_marker(), np.asarray(line.get_xydata())) for line in axes.lines]
    drawn = {(mark, *at[0]) for mark, at in points if len(at) == 1}
    places = {0.0: 0.0, 0.5: 1.0, 0.75: 2.0, 0.875: 3.0, 0.9375: 4.0}
    assert drawn == {
        (found[name, row.case.backend].mark, places[row.case.sparsity], row.time_ms.value)
        for name, points in lines(panel).items()
        for row in points
        if row.time_ms is not None
    }


@pytest.mark.parametrize("name", ["nm", "cs"])
def test_a_line_goes_through_its_times(name: str) -> None:
    panel = rows(compared_records())
    axes = Figure().subplots()
    draw_panel(axes, panel, looks(runners([panel])))
    times = [row.time_ms.value for row in lines(panel)[name] if row.time_ms is not None]
    assert times in [np.asarray(line.get_ydata()).tolist() for line in axes.lines]


def test_names_of_dense_lines_that_lie_together_do_not_cover_each_other() -> None:
    axes = Figure().subplots()
    axes.set_yscale("log")
    axes.set_ylim(1, 100)
    name_lines(axes, [Way("far", "fp32", 3.0), Way("low", "fp32", 20.0), Way("high", "fp32", 21.0)])
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["far", "high\nlow"]
    assert axes.texts[1].xy == (1, 21.0)  # type: ignore[attr-defined]  # an annotation's

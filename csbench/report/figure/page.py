"""The whole figure: its panels in a grid under one title and one legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from csbench.report.figure.lines import runners
from csbench.report.figure.looks import Look, looks
from csbench.report.figure.panel import DENSE, draw_panel
from csbench.report.rows import Row
from csbench.report.tables.cells import shape

_COLUMN = 3.35  # inches: one column of a two-column page
_HEIGHT = 2.65  # inches, of a panel
_LINE = 0.17  # inches, of the title's and the legend's lines
_LETTERS = 50  # of a title, in one column


def page(panels: Sequence[Sequence[Row]]) -> Figure:
    """One panel as wide as a column of a paper, or two beside each other, as wide as its page."""
    across = min(2, len(panels))
    down = -(-len(panels) // across)
    drawn = looks(runners(panels))
    common, own = titles(panels)
    title, handles, ncols = _wrapped(common, across), _handles(drawn), 1 + across
    above = title.count("\n") + 1 - (-len(handles) // ncols)
    size = (across * _COLUMN, down * _HEIGHT + above * _LINE)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(down, across, squeeze=False)
    for axes, panel, name in zip(grid.flat, panels, own, strict=False):
        draw_panel(axes, panel, drawn)
        axes.set_title(_wrapped(name), pad=3)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    legend = figure.legend(
        handles=handles, loc="outside upper center", ncols=ncols, title=title, frameon=False,
        handlelength=3.6, columnspacing=1.2, handletextpad=0.6,
    )  # fmt: skip
    legend.get_title().set_multialignment("center")
    return figure


def titles(panels: Sequence[Sequence[Row]]) -> tuple[str, list[str]]:
    """What all panels have in common, and what tells each from the others."""
    words = [_words(panel[0]) for panel in panels]
    shared = [len(set(kind)) == 1 for kind in zip(*words, strict=True)]
    *_, baseline = words[0]
    common = [word for word, same in zip(words[0], shared, strict=True) if same]
    return (
        ", ".join(word for word in common if word != baseline),
        [
            ", ".join(word for word, same in zip(each, shared, strict=True) if not same)
            for each in words
        ],
    )


def _words(row: Row) -> tuple[str, ...]:
    case = row.case
    return (
        case.model, f"input {shape(case.input)}", f"batch {case.batch}", case.dtype, row.device,
        f"baseline {case.baseline}",
    )  # fmt: skip


def _wrapped(title: str, columns: int = 1) -> str:
    """A title in lines that end after a comma, none wider than the columns."""
    lines = [""]
    for word in title.split(", "):
        longer = f"{lines[-1]}, {word}" if lines[-1] else word
        if lines[-1] and len(longer) > _LETTERS * columns:
            lines[-1] += ","
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def _handles(drawn: Mapping[tuple[str, str], Look]) -> list[Any]:
    patterns = [
        Line2D([], [], label=_label(*runner), **look.of_line() | look.of_marks())
        for runner, look in drawn.items()
    ]
    return [*patterns, Line2D([], [], label="dense, named beside", **DENSE)]


def _label(name: str, backend: str) -> str:
    """The pattern, and the backend that ran it where it has another name."""
    return name if backend == name.partition(":")[0] else f"{name} ({backend})"

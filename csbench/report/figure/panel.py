"""One panel: the lines of a setting over a logarithmic axis, and its dense ways by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from csbench.report.dense import Way
from csbench.report.figure.lines import dense_lines, lines
from csbench.report.figure.looks import Look
from csbench.report.rows import Row
from csbench.report.tables.comparison import nominal

DENSE: dict[str, Any] = {"color": "#444444", "linewidth": 0.8}  # lines without marks
_NAME_HEIGHT = 0.075  # of a dense line's name, as a share of the panel's
_LETTER = 0.02  # width of one letter of it, as a share of the panel's
_MOST = 0.45  # of a panel's width that names may take


def draw_panel(axes: Axes, panel: Sequence[Row], looks: Mapping[tuple[str, str], Look]) -> None:
    """Draw the rows of one setting."""
    ways = dense_lines(panel)
    for name, points in lines(panel).items():
        _draw_line(
            axes, points, {row.case.backend: looks[name, row.case.backend] for row in points}
        )
    for way in ways:
        axes.axhline(way.time_ms, zorder=1, **DENSE)
    _logarithmic(axes)
    name_lines(axes, ways)
    _ticks(axes, sorted({nominal(row) for points in lines(panel).values() for row in points}), ways)
    axes.set_xlabel("Sparsity (%)")
    axes.set_ylabel("Latency (ms)")
    axes.grid(axis="y", which="both", linewidth=0.3, alpha=0.4)


def _draw_line(axes: Axes, points: Sequence[Row], looks: Mapping[str, Look]) -> None:
    """One line with its intervals; each mark is that of the backend that was the fastest there."""
    timed = [(row, row.time_ms) for row in points if row.time_ms is not None]
    spread = [[t.value - (t.low or t.value), (t.high or t.value) - t.value] for _, t in timed]
    axes.errorbar(
        [_place(nominal(row)) for row, _ in timed], [time.value for _, time in timed],
        yerr=list(zip(*spread, strict=True)), elinewidth=0.8,
        **looks[points[0].case.backend].of_line(),
    )  # fmt: skip
    for row, time in timed:
        axes.plot(_place(nominal(row)), time.value, **looks[row.case.backend].of_marks())


def name_lines(axes: Axes, ways: Sequence[Way]) -> None:
    """Name dense lines above them; where they lie too near, all names over the highest."""
    low, high = axes.get_ylim()
    room = (high / low) ** _NAME_HEIGHT
    together: list[list[Way]] = []
    for way in sorted(ways, key=lambda way: way.time_ms):
        below = together[-1] if together else []
        if below and way.time_ms < below[-1].time_ms * room ** len(below):
            below.append(way)
        else:
            together.append([way])
    for near in together:
        axes.annotate(
            "\n".join(way.name for way in reversed(near)), (1, near[-1].time_ms),
            xycoords=("axes fraction", "data"), xytext=(-2, 1.5), textcoords="offset points",
            ha="right", va="bottom", fontsize=7, color=DENSE["color"], linespacing=1,
        )  # fmt: skip


def _ticks(axes: Axes, sparsities: Sequence[float], ways: Sequence[Way]) -> None:
    """A tick a sparsity, and beside the data room for the longest name of a dense way."""
    places = [_place(sparsity) for sparsity in sparsities]
    first, last = places[0], places[-1]
    width = max(last - first, 1)
    share = min(_MOST, _LETTER * (2 + max(len(way.name) for way in ways)))
    axes.set_xlim(first - 0.08 * width, last + 1.08 * width * share / (1 - share))
    axes.set_xticks(places, [f"{100 * sparsity:g}" for sparsity in sparsities])


def _logarithmic(axes: Axes) -> None:
    """A logarithmic axis with plain numbers, and room above the highest line for its name."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.06)
    subs = (1.0, 2.0, 5.0) if high > 40 * low else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _place(sparsity: float) -> float:
    """Where a sparsity stands: each half of the weights that goes is one step to the right."""
    return -math.log2(1 - sparsity)

"""Latency against sparsity, one line a pattern, as a figure of a paper: PNG, SVG or PDF."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csbench.core.record import Record
from csbench.errors import UsageError, unknown
from csbench.report.dense import Way, baseline_way
from csbench.report.rows import Row, rows
from csbench.report.tables.comparison import fastest, nominal, setting

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# What keeps the same records from giving the same bytes, by kind of file.
_DATES = {".png": "Software", ".svg": "Date", ".pdf": "CreationDate"}
SUFFIXES = tuple(_DATES)
_COLUMN = 3.35  # inches: one column of a two-column page
_STYLE: Any = {
    "font.size": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 7, "lines.linewidth": 1.2, "lines.markersize": 4, "axes.linewidth": 0.6,
    "svg.hashsalt": "csbench", "savefig.dpi": 300,
}  # fmt: skip
# Colours of Okabe and Ito, which colour-blind readers can tell apart; the marks differ too.
_LOOKS = {
    "cs": ("#D55E00", "o"), "nm": ("#0072B2", "s"), "ovw": ("#009E73", "^"),
    "shfl-bw": ("#CC79A7", "v"), "block": ("#E69F00", "D"), "unstructured": ("#56B4E9", "P"),
}  # fmt: skip
_OTHERS = ("#000000", "X")
_DASHES = ("--", ":", "-.")
_NAME_HEIGHT = 0.065  # of a dense line's name, as a share of the panel's


def draw(records: Iterable[Record], path: Path) -> None:
    """Draw the figure to a file; raises UsageError for an unknown kind or nothing to draw.

    A panel for each model, device, batch and precision that has sparse rows; of those with a single
    sparsity, which have no line, only where there are no others.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(unknown("kind of figure", path.suffix or str(path), SUFFIXES))
    panels = _panels(list(rows(records)))
    if not panels:
        raise UsageError(
            "the records have nothing for a figure; it needs inference records of a sparse "
            "pattern: csbench infer --model resnet50 --pattern all"
        )
    try:
        import matplotlib
    except ImportError:
        raise UsageError("a figure needs matplotlib; pip install 'csbench[plots]'") from None
    with matplotlib.rc_context(_STYLE):
        undated = {_DATES[path.suffix.lower()]: None}
        _figure(panels).savefig(path, metadata=undated, bbox_inches="tight")


def lines(panel: Sequence[Row]) -> dict[str, list[Row]]:
    """By label the rows of each pattern, by sparsity: at each the fastest backend's."""
    found: dict[str, dict[float, Row]] = {}
    for row, _ in fastest(panel):
        if row.case.pattern == "dense" or row.time_ms is None or _masked(row):
            continue
        # The parameters of these two follow the sparsity; a block's or a vector's are its size.
        name = row.pattern if row.pattern in ("nm", "cs") else row.case.pattern
        points = found.setdefault(name, {})
        held = points.setdefault(nominal(row), row)
        if held.time_ms is not None and row.time_ms.value < held.time_ms.value:
            points[nominal(row)] = row
    return {_label(name, points.values()): _sorted(points) for name, points in found.items()}


def dense_lines(panel: Sequence[Row]) -> list[Way]:
    """The baseline, the best dense way of its precision, and the best of any."""
    row = next(row for row in panel if row.dense)
    named = (baseline_way(row.record), row.best_dense_same, row.best_dense)
    return [way for way in reversed(row.dense) if way.name in named]


def _panels(derived: Sequence[Row]) -> list[list[Row]]:
    own = sorted((row for row in derived if row.case.task == "infer"), key=setting)
    parts = [list(part) for _, part in groupby(own, setting)]
    drawn = [part for part in parts if lines(part)]
    return [part for part in drawn if max(map(len, lines(part).values())) > 1] or drawn


def _masked(row: Row) -> bool:
    return row.case.sparsity > 0 and row.sparse_layers is not None and not row.sparse_layers[0]


def _label(name: str, points: Iterable[Row]) -> str:
    """The pattern, and the backend where one of another name ran all of it."""
    backends = {row.case.backend for row in points}
    only = backends.pop() if len(backends) == 1 else ""
    return f"{name} ({only})" if only and only != name.partition(":")[0] else name


def _sorted(points: dict[float, Row]) -> list[Row]:
    return [points[sparsity] for sparsity in sorted(points)]


def _figure(panels: Sequence[Sequence[Row]]) -> Figure:
    from matplotlib.figure import Figure

    across = min(2, len(panels))
    down = -(-len(panels) // across)
    figure = Figure(figsize=(across * _COLUMN, down * 0.75 * _COLUMN), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False)
    drawn: dict[str, Any] = {}
    for axes, panel in zip(grid.flat, panels, strict=False):
        drawn |= _panel(axes, panel)
        axes.set_title(_differing(panel, panels), fontsize=7, pad=3)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    figure.legend(
        drawn.values(), drawn.keys(), loc="outside upper center", ncols=min(3, len(drawn)),
        frameon=False, columnspacing=1.0, handletextpad=0.4,
    )  # fmt: skip
    return figure


def _differing(panel: Sequence[Row], panels: Sequence[Sequence[Row]]) -> str:
    """What tells a panel from the others: nothing where it is alone."""

    def words(row: Row) -> tuple[str, ...]:
        case = row.case
        return (case.model, row.device, f"batch {case.batch}", case.dtype)

    all_words = zip(*(words(each[0]) for each in panels), strict=True)
    return ", ".join(
        own for own, known in zip(words(panel[0]), all_words, strict=True) if len(set(known)) > 1
    )


def _panel(axes: Axes, panel: Sequence[Row]) -> dict[str, Any]:
    """Draw one setting; the handles by label, for the legend."""
    handles: dict[str, Any] = {}
    ticks: dict[float, str] = {}
    for label, points in lines(panel).items():
        at = [_place(nominal(row)) for row in points]
        ticks |= {_place(nominal(row)): f"{100 * nominal(row):g}" for row in points}
        times = [row.time_ms for row in points if row.time_ms is not None]
        spread = [[t.value - (t.low or t.value), (t.high or t.value) - t.value] for t in times]
        colour, mark = _LOOKS.get(points[0].pattern, _OTHERS)
        handles[label] = axes.errorbar(
            at, [t.value for t in times], yerr=list(zip(*spread, strict=True)), color=colour,
            marker=mark, capsize=2, elinewidth=0.8,
        )  # fmt: skip
    for way, dashes in zip(dense_lines(panel), _DASHES, strict=False):
        axes.axhline(way.time_ms, color="#444444", linestyle=dashes, linewidth=0.9, zorder=0)
    _logarithmic(axes)
    name_lines(axes, dense_lines(panel))
    first, last = min(ticks), max(ticks)
    width = max(last - first, 1)
    axes.set_xlim(first - 0.06 * width, last + 0.34 * width)  # dense ways are named beside the data
    axes.set_xticks(sorted(ticks), [ticks[place] for place in sorted(ticks)])
    axes.set_xlabel("Sparsity (%)")
    axes.set_ylabel("Latency (ms)")
    axes.grid(axis="y", which="both", linewidth=0.3, alpha=0.4)
    return handles


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
            ha="right", va="bottom", fontsize=6, color="#444444", linespacing=1,
        )  # fmt: skip


def _logarithmic(axes: Axes) -> None:
    """A logarithmic axis with plain numbers, and room above the highest line for its name."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.06)
    subs = (1.0, 2.0, 5.0) if high > 12 * low else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _place(sparsity: float) -> float:
    """Where a sparsity stands: each half of the weights that goes is one step to the right."""
    return -math.log2(1 - sparsity)

"""Latency against sparsity, one line a pattern, as a figure of a paper: PNG, SVG or PDF."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from csbench.core.record import Record
from csbench.errors import UsageError, unknown
from csbench.report.figure.lines import panels
from csbench.report.rows import rows

# What keeps the same records from giving the same bytes, by kind of file.
_DATES = {".png": "Software", ".svg": "Date", ".pdf": "CreationDate"}
SUFFIXES = tuple(_DATES)
_STYLE: Any = {
    "font.size": 8, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 7.5, "legend.title_fontsize": 8, "axes.titlesize": 8,
    "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    "svg.hashsalt": "csbench", "savefig.dpi": 300, "savefig.pad_inches": 0.02,
}  # fmt: skip


def draw(records: Iterable[Record], path: Path) -> None:
    """Draw the figure to a file; raises UsageError for an unknown kind or nothing to draw.

    A panel for each model, device, batch and precision that has sparse rows; of those with a single
    sparsity, which have no line, only where there are no others.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(unknown("kind of figure", path.suffix or str(path), SUFFIXES))
    found = panels(list(rows(records)))
    if not found:
        raise UsageError(
            "the records have nothing for a figure; it needs inference records of a sparse "
            "pattern: csbench infer --model resnet50 --pattern all"
        )
    try:
        import matplotlib
    except ImportError:
        raise UsageError("a figure needs matplotlib; pip install 'csbench[plots]'") from None
    from csbench.report.figure.page import page

    with matplotlib.rc_context(_STYLE):
        undated = {_DATES[path.suffix.lower()]: None}
        page(found).savefig(path, metadata=undated, bbox_inches="tight")

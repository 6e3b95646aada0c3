"""How lines look: colour, dashes and width tell the pattern, the mark tells the backend too."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle
from typing import Any, NamedTuple

Dashes = tuple[int, tuple[float, ...] | None]  # offset, and points on and off; None: solid


class Look(NamedTuple):
    """One line of the legend; widths and sizes in points. The wider and larger lies below."""

    colour: str
    dashes: Dashes
    width: float
    mark: str
    size: float
    hollow: bool = True

    def of_line(self) -> dict[str, Any]:
        """matplotlib's arguments for the line."""
        return {
            "color": self.colour, "linestyle": self.dashes, "linewidth": self.width,
            "zorder": 3 - self.width / 10,
        }  # fmt: skip

    def of_marks(self) -> dict[str, Any]:
        """matplotlib's arguments for the marks: over all lines, the smaller over the larger."""
        return {
            "color": self.colour, "marker": self.mark, "markersize": self.size,
            "markeredgewidth": 1.1, "markerfacecolor": "none" if self.hollow else self.colour,
            "zorder": 4 - self.size / 10,
        }  # fmt: skip


# Colours of Okabe and Ito, which colour-blind readers can tell apart. Lines that come to the same
# times, nm and cs, ovw and shfl-bw, must both be seen at their true places: the one drawn first is
# wide and light with a large hollow mark, the one drawn over it thin, dark and dashed with a small
# mark. So they differ in black and white too.
_LOOKS = {
    "unstructured": Look("#E69F00", (0, (6, 1.5, 1, 1.5)), 1.2, "P", 4.5, hollow=False),
    "block": Look("#009E73", (0, (1, 1)), 1.4, "D", 5.5),
    "nm": Look("#56B4E9", (0, None), 2.4, "s", 6.5),
    "ovw": Look("#CC79A7", (0, (9, 1)), 2.4, "^", 7.5),
    "shfl-bw": Look("#0072B2", (0, (2, 1.6)), 1.0, "x", 4.5),
    "cs": Look("#D55E00", (0, (4, 2.5)), 1.0, "o", 2.6, hollow=False),
}  # fmt: skip
_OTHER_COLOURS = ("#000000", "#8C510A", "#7F7F7F")
_OTHER_DASHES: tuple[Dashes, ...] = ((0, (3, 1, 1, 1)), (0, (5, 1)), (0, (1, 2)), (0, None))
_OTHER_MARKS = ("*", "X", "v", "h", "<", "p", ">")


def looks(runners: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Look]:
    """By name and backend of a line its look.

    The first line of a known pattern has the pattern's own look; a further backend of it changes
    the mark, a further line, of other parameters or of a plug-in's pattern, all. The seven other
    marks and twelve other pairs of colour and dashes begin again when they are used up.
    """
    colours, dashes, marks = cycle(_OTHER_COLOURS), cycle(_OTHER_DASHES), cycle(_OTHER_MARKS)
    own = dict(_LOOKS)
    lines: dict[str, Look] = {}
    found: dict[tuple[str, str], Look] = {}
    for name, backend in runners:
        if name in lines:
            look = lines[name]._replace(mark=next(marks), size=6.4)
        elif (known := own.pop(name.partition(":")[0], None)) is not None:
            look = known
        else:
            look = Look(next(colours), next(dashes), 1.2, next(marks), 5.5)
        lines.setdefault(name, look)
        found[name, backend] = look
    return found

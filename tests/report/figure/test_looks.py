"""Lines differ in print of any kind, and where they lie on each other."""

from __future__ import annotations

import math
from itertools import combinations

import pytest

from csbench.core.pattern import BUILT_IN
from csbench.report.figure.looks import looks

SPARSE = [(name, name) for name in BUILT_IN if name != "dense"]


def test_patterns_differ_in_colour_dashes_and_mark_each_by_itself() -> None:
    found = looks(SPARSE).values()
    for first, second in combinations(found, 2):
        assert first.colour != second.colour
        assert first.dashes != second.dashes
        assert first.mark != second.mark


@pytest.mark.parametrize(("below", "above"), [("nm", "cs"), ("ovw", "shfl-bw")])
def test_of_lines_at_the_same_times_both_are_seen(below: str, above: str) -> None:
    found = looks(SPARSE)
    wide, thin = found[below, below], found[above, above]
    assert wide.hollow
    assert wide.size > 1.5 * thin.size
    assert wide.width > 2 * thin.width
    assert thin.dashes[1] is not None
    assert _light(wide.colour) > 1.5 * _light(thin.colour)  # in black and white too
    assert wide.of_line()["zorder"] < thin.of_line()["zorder"] < wide.of_marks()["zorder"]
    assert wide.of_marks()["zorder"] < thin.of_marks()["zorder"]


def test_another_backend_of_a_pattern_has_another_mark_on_the_same_line() -> None:
    first, second = looks([("block:32x32", "a"), ("block:32x32", "b")]).values()
    assert first.of_line() == second.of_line()
    assert first.mark != second.mark


def test_lines_of_other_parameters_and_plug_ins_are_no_copies() -> None:
    runners = [
        ("block:16x16", "a"), ("block:16x16", "b"), ("block:32x32", "a"), ("own", "a"),
        ("mine:8", "a"), ("nm", "nm"),
    ]  # fmt: skip
    found = looks(runners)
    assert list(found) == runners
    assert len({look.mark for look in found.values()}) == 6
    assert len({(look.colour, look.dashes) for look in found.values()}) == 5


def _light(colour: str) -> float:
    """Relative luminance of sRGB."""
    red, green, blue = (math.pow(int(colour[i : i + 2], 16) / 255, 2.2) for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue

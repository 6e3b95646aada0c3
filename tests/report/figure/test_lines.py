"""What becomes a line of the figure, and what a horizontal."""

from __future__ import annotations

from csbench.report.figure.lines import dense_lines, lines, runners
from csbench.report.rows import rows
from tests.report.made import block_records, compared_records, record


def test_a_pattern_is_one_line_of_its_fastest_backends() -> None:
    found = lines(rows(compared_records()))
    assert {name: [row.case.sparsity for row in line] for name, line in found.items()} == {
        "nm": [0, 0.5, 0.75], "cs": [0, 0.5, 0.75],
    }  # fmt: skip
    assert {row.case.backend for line in found.values() for row in line} == {"nm", "cs"}
    both = lines(rows(block_records()))  # two backends, of which one fails at high sparsities
    assert [row.case.backend for row in both["block:32x32"]] == [
        *["block-cutlass"] * 3, *["block-original"] * 2,
    ]  # fmt: skip


def test_every_line_and_backend_of_all_panels_is_listed_once() -> None:
    one = rows([*compared_records(), record(0.5, pattern="own:8", backend="own")])
    assert runners([one, rows(block_records()), one]) == [
        ("block:32x32", "block-cutlass"), ("block:32x32", "block-original"), ("nm", "nm"),
        ("cs", "cs"), ("own:8", "own"),
    ]  # fmt: skip


def test_dense_ways_are_the_baseline_and_the_best_of_both_kinds() -> None:
    ways = dense_lines(rows(compared_records()))
    assert [way.name for way in ways] == ["cudnn fp32", "cs fp32 at 0 %", "cudnn fp16"]

"""Plain text for a terminal: aligned columns, broken into panels where they are too wide."""

from __future__ import annotations

import textwrap

from csbench.report.render.strings import PAD, Text, column_texts, head_rows
from csbench.report.table import Column, Table

WIDTH = 120
_GAP = "  "


def text(table: Table, *, width: int = WIDTH) -> str:
    """The table in plain text, at most `width` characters wide where its columns allow it."""
    lines = [*_wrapped(table.caption, width), ""]
    for positions in table.panels:
        blocks = [_Block(table.columns[p], column_texts(table, p)) for p in positions]
        for panel in _narrowed(blocks, width):
            lines += [*_panel(table, panel), ""]
    if table.has_ties:
        lines.append("* the best of its group, or statistically tied with it")
    for note in table.footnotes:
        mark = f"[{table.mark(note)}] "
        lines += _wrapped(mark + note, width, " " * len(mark))
    for note in (*table.notes, *table.provenance.lines()):
        lines += _wrapped(note, width)
    return "\n".join(line.rstrip() for line in lines) + "\n"


class _Block:
    """One column: its cells as strings of one width."""

    def __init__(self, column: Column, cells: list[Text]) -> None:
        self.column, self.cells = column, cells
        # Marks hang to the right of the numbers, which must not move for them.
        self.hang = max((len(_mark(cell)) for cell in cells), default=0)
        inner = max((len(_body(cell)) for cell in cells), default=0)
        self.width = max(inner + self.hang, len(column.titles[-1]))

    def line(self, row: int) -> str:
        body, mark = _body(self.cells[row]), _mark(self.cells[row])
        if self.column.align == "left":
            return (body + mark).ljust(self.width)
        return body.rjust(self.width - self.hang) + mark.ljust(self.hang)


def _body(cell: Text) -> str:
    # Plain text has no bold: a star stands for it.
    return ("*" if cell.bold else "") + cell.plain.replace(PAD, " ")


def _mark(cell: Text) -> str:
    return f"[{cell.mark}]" if cell.mark else ""


def _narrowed(blocks: list[_Block], limit: int) -> list[list[_Block]]:
    """A panel broken to a width: stubs are repeated, what shares a spanning head stays together."""
    stub = [block for block in blocks if block.column.stub]
    units: list[list[_Block]] = []
    for block in (b for b in blocks if not b.column.stub):
        heads = block.column.heads
        if units and len(heads) > 1 and heads[0] == units[-1][0].column.heads[0]:
            units[-1].append(block)
        else:
            units.append([block])
    panels = [list(stub)]
    for unit in units:
        total = sum(b.width for b in panels[-1] + unit) + len(_GAP) * len(panels[-1] + unit[1:])
        if total > limit and len(panels[-1]) > len(stub):
            panels.append(list(stub))
        panels[-1] += unit
    return panels


def _panel(table: Table, blocks: list[_Block]) -> list[str]:
    lines = _heads(blocks)
    lines.append(_GAP.join("-" * block.width for block in blocks))
    row = 0
    for group in table.groups:
        if row:
            lines.append("")
        if group.title:
            lines.append(group.title)
        for _ in group.rows:
            lines.append(_GAP.join(block.line(row) for block in blocks))
            row += 1
    return lines


def _heads(blocks: list[_Block]) -> list[str]:
    """The titles, below the spanning heads; a column grows where a head is wider than its span."""
    rows = head_rows([block.column for block in blocks])
    for head in (head for row in rows for head in row):
        below = blocks[head.start : head.start + head.span]
        below[-1].width += max(0, len(head.title) - _total(below))
    lines = [
        _GAP.join(
            head.title.center(_total(blocks[head.start : head.start + head.span])) for head in row
        )
        for row in rows[:-1]
    ]
    titles = (
        title.ljust(b.width) if b.column.align == "left" else title.rjust(b.width)
        for title, b in zip((head.title for head in rows[-1]), blocks, strict=True)
    )
    return [*lines, _GAP.join(titles)]


def _total(blocks: list[_Block]) -> int:
    return sum(block.width for block in blocks) + len(_GAP) * (len(blocks) - 1)


def _wrapped(line: str, width: int, indent: str = "") -> list[str]:
    return textwrap.wrap(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )

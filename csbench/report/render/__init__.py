"""Tables in every format: `write(tables, format)`."""

from __future__ import annotations

from collections.abc import Sequence

from csbench.report import Format
from csbench.report.table import Table


def write(tables: Sequence[Table], format: Format, *, standalone: bool = False) -> str:
    """The tables in one format; `standalone` makes LaTeX a document that compiles by itself."""
    # A format is imported when it is asked for: only LaTeX and HTML need jinja2.
    if format == "latex":
        from csbench.report.render.latex import document, latex

        return document(tables) if standalone else "\n".join(latex(table) for table in tables)
    if format == "html":
        from csbench.report.render.html import html

        return html(tables)
    if format in ("csv", "json"):
        from csbench.report.render.data import as_csv, as_json

        return as_csv(tables) if format == "csv" else as_json(tables)
    if format == "markdown":
        from csbench.report.render.markdown import markdown

        return "\n".join(markdown(table) for table in tables)
    from csbench.report.render.text import text

    return "\n".join(text(table) for table in tables)

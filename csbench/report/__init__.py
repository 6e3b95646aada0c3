"""Tables from records: rows of derived numbers, one table model, many renderers. No torch."""

from __future__ import annotations

from typing import Literal

Format = Literal["text", "markdown", "latex", "csv", "json", "html"]

# Here, where importing costs nothing: the command line offers both before it loads a table.
FORMATS: tuple[Format, ...] = ("text", "markdown", "latex", "csv", "json", "html")
TABLE_NAMES = (
    "table11", "comparison", "inference", "layers", "training-hours", "table10", "scaling",
    "accuracy",
)  # fmt: skip

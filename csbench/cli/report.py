"""csbench report: tables from record files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from csbench.errors import UsageError
from csbench.report import FORMATS, TABLE_NAMES, Format


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[RECORDS]...")
@click.option(
    "--table",
    type=click.Choice(["all", *TABLE_NAMES]),
    default="all",
    show_default=True,
    help="Which table; all: every one that the records have data for.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(FORMATS),
    default="text",
    show_default=True,
    help="LaTeX comes as floats to \\input into a document with booktabs and graphicx.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write to this file, not to stdout."
)
@click.option(
    "--figure",
    "figures",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also draw latency against sparsity: .png, .svg or .pdf; may be given several times.",
)
@click.option("--standalone", is_flag=True, help="LaTeX that compiles by itself.")
@click.option("-v", "--verbose", is_flag=True, expose_value=False, help="Show where an error is.")
def command(
    files: tuple[Path, ...], table: str, format_: Format, output: Path | None,
    figures: tuple[Path, ...], standalone: bool,
) -> None:  # fmt: skip
    """Write tables from RECORDS: text, Markdown, LaTeX, CSV, JSON, HTML.

    Without RECORDS those of csbench-results/records.jsonl. Of several records of one case the
    last sound one counts.

    \b
    Examples:
      csbench report --format latex
      csbench report reports/*.jsonl --table table11 --format markdown -o table11.md
      csbench report patterns.jsonl --table comparison --figure latency.svg
    """
    from csbench.core.store import DEFAULT, read
    from csbench.report.document import render

    if standalone and format_ not in ("latex", "html"):
        raise UsageError(f"--standalone is for --format latex, not for {format_}")
    named = files or (DEFAULT,)
    records = [record for file in named for record in read(file)]
    if not records:
        raise UsageError(
            f"no records in {', '.join(map(str, named))}; measure first: "
            "csbench infer --model resnet50 --pattern block"
        )
    document = render(records, table=table, format=format_, standalone=standalone)
    if figures:
        from csbench.report.figure import draw

        for figure in figures:
            _written(figure, lambda path: draw(records, path))
    if output is None or str(output) == "-":
        click.echo(document, nl=False)
        return
    _written(output, lambda path: path.write_text(document, encoding="utf-8"))


def _written(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file in a folder that may be new; raises UsageError where that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
    except OSError as error:
        raise UsageError(
            f"cannot write '{path}': {error.strerror}; name a file that can be written"
        ) from None

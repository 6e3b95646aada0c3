"""Every table in every format against golden files, escaping, and LaTeX that compiles."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from itertools import islice
from pathlib import Path

import pytest

from csbench.report import FORMATS, TABLE_NAMES
from csbench.report.document import render
from csbench.report.render import write
from csbench.report.render.latex import escape as latex_escape
from csbench.report.render.markdown import escape as markdown_escape
from csbench.report.render.text import text
from csbench.report.table import Cell, Column, Group, Provenance, Table
from tests.report.made import everything, record

GOLDEN = Path(__file__).parents[1] / "golden"
NASTY = r"100%_&#${}~^\|<>`*[x]--é—"
SUFFIX = {"text": "txt", "markdown": "md", "latex": "tex"}


@pytest.mark.parametrize("format", SUFFIX)
@pytest.mark.parametrize("table", TABLE_NAMES)
def test_golden_table(table: str, format: str) -> None:
    golden = (GOLDEN / f"{table}.{SUFFIX[format]}").read_text(encoding="utf-8")
    assert render(everything(), table=table, format=format) == golden  # type: ignore[arg-type]


@pytest.mark.parametrize("format", ["csv", "json", "html"])
def test_golden_report(format: str) -> None:
    golden = (GOLDEN / f"all.{format}").read_text(encoding="utf-8")
    assert render(everything(), format=format) == golden  # type: ignore[arg-type]


def nasty_table() -> Table:
    columns = (Column("name", (NASTY,), align="left", stub=True), Column("time_ms", ("T",), "ms"))
    rows = ((Cell(NASTY, note=NASTY), Cell(1.0)), (Cell("[1]"), Cell(code="OOM", note="too big")))
    source = Provenance("abc", "1", NASTY + "\n\\evil", NASTY, "2026")
    return Table("nasty", NASTY, columns, (Group(rows, NASTY),), source, notes=(NASTY,))


def test_latex_escapes_what_it_would_obey() -> None:
    assert latex_escape(r"% _ & # $ { } ~ ^ \ |") == (
        r"\% \_ \& \# \$ \{ \} \textasciitilde{} \textasciicircum{} \textbackslash{} \textbar{}"
    )
    assert latex_escape("--max-noise") == "-{}-max-noise"
    assert latex_escape("a\nb\x00\x9b漢") == "a b ??"


def test_latex_comments_cannot_be_left() -> None:
    lines = write([nasty_table()], "latex").splitlines()
    assert not any(line.lstrip().startswith(r"\evil") for line in lines)
    assert lines[0].startswith("% ") and lines[1].startswith("% ")


def test_markdown_escapes_what_it_would_obey() -> None:
    assert markdown_escape(r"a_b*c|d~e^f\g`h<i#j") == r"a\_b\*c\|d\~e\^f\\g\`h\<i\#j"
    rows = [line for line in write([nasty_table()], "markdown").splitlines() if line[:1] == "|"]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1


def test_html_escapes_what_it_would_obey() -> None:
    page = write([nasty_table()], "html")
    assert "<x" not in page and "&lt;&gt;" in page
    assert _balanced(page)


def test_csv_quotes_what_it_must() -> None:
    made = Table(
        "t", "c", (Column("a", ("A",)),), (Group(((Cell('x,"y"\nz'),),)),), Provenance(*"12345")
    )
    lines = list(csv.DictReader(io.StringIO(write([made], "csv"))))
    assert lines[0]["a"] == 'x,"y"\nz'


def test_csv_is_one_table_of_full_precision() -> None:
    lines = list(csv.DictReader(io.StringIO(render(everything(), format="csv"))))
    assert {line["table"] for line in lines} == set(TABLE_NAMES)
    case = next(line for line in lines if line["table"] == "inference" and line["speedup"])
    assert float(case["speedup_low"]) < float(case["speedup"]) < float(case["speedup_high"])
    assert case["batch"] and case["dtype"] and case["model"] and len(case["records_sha256"]) == 64


def test_json_keeps_codes_beside_missing_values() -> None:
    tables = json.loads(render(everything(), table="table11", format="json"))["tables"]
    rows = [row for group in tables[0]["groups"] for row in group["rows"]]
    assert rows[3]["block_cutlass_ms"]["code"] == "OOM"
    assert rows[3]["block_cutlass_ms"]["value"] is None
    assert rows[3]["block_cutlass_speedup"] is None


def test_text_keeps_to_its_width_by_panels() -> None:
    assert max(map(len, render(everything(), format="text").splitlines())) <= 120
    lines = render(everything(), table="inference", format="text").splitlines()
    assert sum(line.startswith("layers  model  Pattern") for line in lines) == 4


def test_a_head_wider_than_its_columns_widens_them() -> None:
    columns = (Column("a", ("A very wide spanning head", "x")), Column("b", ("B",)))
    made = Table("t", "c", columns, (Group(((Cell(1), Cell(2)),)),), Provenance(*"12345"))
    lines = text(made).splitlines()
    assert len({len(line) for line in lines[4:6]}) == 1
    assert lines[2].rstrip() == "A very wide spanning head"


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_says_where_the_numbers_come_from(format: str) -> None:
    document = render([record()], format=format)  # type: ignore[arg-type]
    for said in ("1.2.3", "Test GPU 80GB", "570.1", "2026-01-02"):
        assert said in document
    assert re.search(r"\b[0-9a-f]{64}\b", document)


def long_table(*lengths: int) -> Table:
    """Groups of so many narrow rows, each with a number of its own; three rows have footnotes."""
    marked = {0: "first", lengths[0] - 1: "first", sum(lengths) - 1: "last"}
    rows = ((Cell(f"row {n}", note=marked.get(n)),) for n in range(sum(lengths)))
    groups = tuple(Group(tuple(islice(rows, k)), f"g{i}") for i, k in enumerate(lengths))
    column = Column("a", ("A",), align="left")
    return Table("t", "Long", (column,), groups, Provenance(*"12345"), notes=("Said once.",))


def test_a_long_latex_table_comes_in_floats_of_whole_groups() -> None:
    made = write([long_table(20, 20, 30, 120)], "latex")
    floats = made.split(r"\begin{table}")[1:]
    assert re.findall(r"\\caption\{(.*)\}", made) == [f"Long ({n} of 5)" for n in range(1, 6)]
    assert re.findall(r"\\label\{(.*)\}", made) == ["tab:t"] + [
        f"tab:t-part{n}" for n in range(2, 6)
    ]
    assert [re.findall(r"emph\{(.*?)\}", one) for one in floats] == [
        ["g0", "g1"], ["g2"], ["g3"], ["g3"], ["g3"],
    ]  # fmt: skip
    assert re.findall(r"row (\d+)", made) == [str(n) for n in range(190)]
    notes = [re.findall(r"(first|last|Said once)", one) for one in floats]
    assert notes == [["first"], [], [], [], ["last", "Said once"]]
    assert write([long_table(49)], "latex").count(r"\begin{table}") == 1


def test_long_notes_leave_a_latex_table_less_room() -> None:
    for words, floats in ((100, 1), (900, 2)):
        noted = replace(long_table(10, 10), notes=("word " * words,))
        assert write([noted], "latex").count(r"\begin{table}") == floats


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
@pytest.mark.parametrize("kind", ["standalone", "fragment"])
def test_latex_compiles(kind: str, tmp_path: Path) -> None:
    if kind == "standalone":
        document = render(everything(), format="latex", standalone=True)
    else:
        tables = [nasty_table(), long_table(20, 20, 30, 120)]
        (tmp_path / "all.tex").write_text(
            render(everything(), format="latex") + write(tables, "latex"), "utf-8"
        )
        document = "\n".join(
            (r"\documentclass{article}", r"\usepackage{booktabs,graphicx}", r"\begin{document}",
             r"\input{all}", r"\end{document}")
        )  # fmt: skip
    (tmp_path / "document.tex").write_text(document, encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "document.tex"],
        cwd=tmp_path, capture_output=True, text=True, check=False, errors="replace",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
    assert "Float too large" not in done.stdout
    assert (tmp_path / "document.pdf").stat().st_size > 1000


def _balanced(page: str) -> bool:
    """Whether every element that opens is closed in order."""

    class Check(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []
            self.sound = True

        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag != "meta":
                self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            self.sound &= bool(self.open) and self.open.pop() == tag

    parser = Check()
    parser.feed(page)
    return parser.sound and not parser.open

"""csbench report: what a user types, what comes out, and what a bad file or place is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from csbench.cli import run
from csbench.report import FORMATS, TABLE_NAMES

RECORDS = Path(__file__).parents[1] / "golden" / "records.jsonl"
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def measured(empty_folder: Path) -> Path:
    """The default record file, as `infer` leaves it."""
    file = empty_folder / "csbench-results" / "records.jsonl"
    file.parent.mkdir()
    file.write_bytes(RECORDS.read_bytes())
    return file


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("measured")
def test_the_default_file_is_reported_in_every_format(format: str, capsys: Capture) -> None:
    assert run(["report", "--format", format]) == 0
    out, err = capsys.readouterr()
    assert "CUTLASS" in out or "block_cutlass" in out
    assert err == ""


@pytest.mark.parametrize("table", TABLE_NAMES)
def test_each_table_comes_alone(table: str, capsys: Capture) -> None:
    assert run(["report", str(RECORDS), "--table", table, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)["tables"]
    assert {one["table"] for one in found} == {table}


def test_standalone_latex_is_a_document(capsys: Capture) -> None:
    assert run(["report", str(RECORDS), "--format", "latex", "--standalone"]) == 0
    assert capsys.readouterr().out.startswith("\\documentclass")
    assert run(["report", str(RECORDS), "--standalone"]) == 2
    assert "--standalone is for --format latex, not for text" in capsys.readouterr().err


def test_output_goes_to_a_file_in_a_new_folder(capsys: Capture) -> None:
    assert run(["report", str(RECORDS), "--format", "markdown", "-o", "new/table.md"]) == 0
    assert Path("new/table.md").read_text(encoding="utf-8").startswith("**Block-sparse")
    assert capsys.readouterr().out == ""


def test_output_that_cannot_be_written_is_told(capsys: Capture) -> None:
    assert run(["report", str(RECORDS), "-o", "."]) == 2
    assert "cannot write '.'" in capsys.readouterr().err


def test_a_figure_is_drawn_beside_the_tables(capsys: Capture) -> None:
    arguments = ["report", str(RECORDS), "--table", "comparison"]
    assert run([*arguments, "--figure", "new/a.svg", "--figure", "a.png"]) == 0
    assert "Sparsity patterns of resnet50" in capsys.readouterr().out
    assert Path("new/a.svg").exists() and Path("a.png").exists()
    assert run([*arguments, "--figure", "a.jpeg"]) == 2
    err = capsys.readouterr().err
    assert "unknown kind of figure '.jpeg'" in err and len(err.splitlines()) == 1
    Path("b.png").mkdir()
    assert run([*arguments, "--figure", "b.png"]) == 2
    assert "cannot write 'b.png'" in capsys.readouterr().err


def test_several_files_make_one_report(capsys: Capture) -> None:
    lines = RECORDS.read_bytes().splitlines(keepends=True)
    Path("a.jsonl").write_bytes(b"".join(lines[:5]))
    Path("b.jsonl").write_bytes(b"".join(lines[5:10]))
    assert run(["report", "a.jsonl", "b.jsonl", "--table", "table11"]) == 0
    assert "no record of it" not in capsys.readouterr().out


def test_a_torn_last_line_is_left_out_and_said(measured: Path, capsys: Capture) -> None:
    with measured.open("ab") as file:
        file.write(b'{"schema": 1, "created": "2026')
    assert run(["report"]) == 0
    out, err = capsys.readouterr()
    assert "CUTLASS-based version" in out
    assert "torn" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no records in"),
        (b'{"schema": 99}\n', "schema 99"),
        (b'{"name": "somebody else\'s"}\n', "not a csbench record"),
        (b"not json\n{}\n", "line 1"),
        (b"\x80\x02}q\x00.\n\n", "not JSON"),
    ],
)
def test_a_bad_file_is_one_line_and_exit_2(
    measured: Path, capsys: Capture, content: bytes, said: str
) -> None:
    measured.write_bytes(content)
    assert run(["report"]) == 2
    out, err = capsys.readouterr()
    assert said in err and len(err.splitlines()) == 1
    assert out == ""


@pytest.mark.parametrize("arguments", [[], ["nowhere.jsonl"], ["."]])
def test_no_records_says_what_to_type(arguments: list[str], capsys: Capture) -> None:
    assert run(["report", *arguments]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert arguments == ["."] or "csbench infer --model resnet50 --pattern block" in err


def test_wrong_options_are_usage_errors(capsys: Capture) -> None:
    assert run(["report", str(RECORDS), "--table", "table12"]) == 2
    assert run(["report", str(RECORDS), "--format", "word"]) == 2
    assert "latex" in capsys.readouterr().err

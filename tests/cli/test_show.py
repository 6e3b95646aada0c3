"""csbench show: lines, one record whole, and keys that are wrong or too short."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from csbench.cli import run

RECORDS = Path(__file__).parents[1] / "golden" / "records.jsonl"
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def key_of(line: int) -> str:
    return str(json.loads(RECORDS.read_text().splitlines()[line])["key"])


def test_a_line_a_record(capsys: Capture) -> None:
    assert run(["show", str(RECORDS)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(RECORDS.read_text().splitlines())
    assert lines[0].startswith("KEY") and lines[1].startswith(key_of(0))
    assert "oom" in lines[4] and "needs 90 GiB" in lines[4] and "--" in lines[4]


def test_a_record_whole(capsys: Capture) -> None:
    assert run(["show", str(RECORDS), key_of(0)[:8]]) == 0
    out = capsys.readouterr().out
    for said in ("block-cutlass on cuda, against cudnn", "40 samples", "over cudnn", "MAD",
                 "1 of 2 ran sparse", "conv1: Cin = 3", "driver: 570.1", "tolerance 1e-05",
                 "layers 0.00%, whole model 0.00%"):  # fmt: skip
        assert said in out


def test_a_training_record_whole(capsys: Capture) -> None:
    probed, trained = (len(RECORDS.read_text().splitlines()) - back for back in (6, 1))
    assert run(["show", str(RECORDS), key_of(probed)]) == 0
    out = capsys.readouterr().out
    for said in ("imagenet (synthetic images), 120 epochs of 5004 steps", "pruning",
                 "3001 times", "projected    17.0"):  # fmt: skip
        assert said in out
    assert run(["show", str(RECORDS), key_of(trained)]) == 0
    assert "loss 0.2100, accuracy 96.90%" in capsys.readouterr().out


def test_a_failed_record_whole(capsys: Capture) -> None:
    assert run(["show", str(RECORDS), key_of(3)]) == 0
    out = capsys.readouterr().out
    assert "oom: needs 90 GiB, has 80 GiB" in out and "speed-up" not in out


def test_a_file_without_records_says_so(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "empty.jsonl").touch()
    assert run(["show", str(tmp_path / "empty.jsonl")]) == 2
    assert "no records in" in capsys.readouterr().err


def test_json_holds_the_raw_samples(capsys: Capture) -> None:
    assert run(["show", str(RECORDS), key_of(0), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["measurement"]["samples_ms"]) == 40
    assert run(["show", str(RECORDS), "--json"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out), list)


def test_a_single_word_is_a_file_or_a_key(capsys: Capture) -> None:
    Path("csbench-results").mkdir()
    Path("csbench-results/records.jsonl").write_bytes(RECORDS.read_bytes())
    assert run(["show"]) == 0
    assert run(["show", key_of(0)]) == 0
    Path("abc").write_bytes(RECORDS.read_bytes())
    capsys.readouterr()
    assert run(["show", "abc"]) == 0
    assert capsys.readouterr().out.startswith("KEY")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no record file 'csbench-results/records.jsonl'; measure first"),
        (["nowhere.jsonl"], "no record file 'nowhere.jsonl'"),
        ([str(RECORDS), "zzz"], "no record 'zzz' in"),
        ([str(RECORDS), ""], "type more of it"),
        ([str(RECORDS), "a", "b"], "3 arguments; expected csbench show [RECORDS] [KEY]"),
    ],
)
def test_what_cannot_be_shown_is_one_line_and_exit_2(
    arguments: list[str], said: str, capsys: Capture
) -> None:
    assert run(["show", *arguments]) == 2
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1

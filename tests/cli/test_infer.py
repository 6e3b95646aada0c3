"""csbench infer from end to end on a tiny network: output, records, exit codes, bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from csbench.cli import run
from csbench.core.store import read

BENCH = Path(__file__).parent.parent / "bench"
TINY = f"{BENCH / 'tiny.py'}:tiny"
QUICK = ["--baseline", "fake", "-r", "2", "-w", "0", "--threads", "1", "--max-noise", "99%"]


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CSBENCH_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to type commands in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def backend(name: str) -> str:
    return f"{BENCH / 'misbehaving.py'}:{name}"


def infer(*arguments: str) -> list[str]:
    return ["infer", "--model", TINY, "--pattern", "cs", *QUICK, *arguments]


def test_a_table_goes_to_stdout_and_all_else_to_stderr(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(infer("--backend", "fake", "--sparsity", "0,75"))
    out, err = capsys.readouterr()
    records = read(folder / "csbench-results" / "records.jsonl")
    assert [(r.case.pattern, r.case.sparsity) for r in records] == [("cs:1", 0), ("cs:4", 0.75)]
    assert code == (0 if {r.status for r in records} == {"ok"} else 5)
    assert "fake" in out and "cs:4" in out and "75.00" in out
    assert "2 cases on cpu, about" in err
    assert "next: csbench report --format latex" in err
    assert "next:" not in out

    # --resume measures nothing that is there with status ok
    run(infer("--backend", "fake", "--sparsity", "0,75", "--resume"))
    again = read(folder / "csbench-results" / "records.jsonl")
    assert len(again) - len(records) == sum(r.status != "ok" for r in records)


def test_json_prints_the_records_that_were_saved(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(infer("--backend", "fake", "--sparsity", "50", "--json", "-q", "-o", "mine.jsonl"))
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out) == json.loads((folder / "mine.jsonl").read_text())
    assert json.loads(out)["case"]["pattern"] == "cs:2"


def test_a_dry_run_lists_cases_and_writes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(infer("--backend", "fake", "-b", "1,64", "--dry-run")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert "cs:16 93.75 % fake batch 64 on cpu over fake" in lines[-1]
    assert list(folder.iterdir()) == []


def test_one_failed_case_does_not_stop_the_others_and_decides_the_exit_code(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = f"{backend('OffByALittle')},{backend('Wrapped')}"
    assert run(infer("--backend", names, "--sparsity", "75")) == 3
    out, err = capsys.readouterr()
    wrong, right = read("csbench-results/records.jsonl")
    assert wrong.status == "wrong" and right.status in ("ok", "noisy")
    assert "WRONG" in out
    assert "wrong: relative error" in err


def test_all_patterns_are_compared_and_what_cannot_run_here_is_a_row_with_its_reason(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(["infer", "--model", TINY, "--pattern", "all", "--sparsity", "75", *QUICK])
    out, err = capsys.readouterr()
    records = read("csbench-results/records.jsonl")
    names = {record.case.pattern.partition(":")[0] for record in records}
    assert names == {"unstructured", "block", "nm", "ovw", "shfl-bw", "cs"}
    statuses = {record.status for record in records}
    assert {"unsupported"} < statuses <= {"ok", "noisy", "unsupported"}
    assert code == (5 if "noisy" in statuses else 0)
    reasons = {r.case.backend: r.reason for r in records if r.status == "unsupported"}
    assert reasons["ovw"].startswith("ovw runs on cuda, not on cpu")
    assert "Sparsity patterns of" in out
    assert "UNSUPPORTED: ovw runs on cuda, not on cpu" in " ".join(out.split())
    assert "unsupported" not in err  # no failure


def test_nothing_that_could_run_is_3(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(infer("--backend", "cudnn", "--sparsity", "50,75", "-q")) == 3
    out, err = capsys.readouterr()
    assert "UNSUPPORTED" in out
    # One line says why, with -q too: an exit code without a word explains nothing.
    assert err == "csbench: nothing ran, 2 cases unsupported: cudnn runs on cuda, not on cpu\n"


def test_fail_fast_stops_at_the_first_failure(folder: Path) -> None:
    names = f"{backend('Raises')},{backend('Wrapped')}"
    assert run(infer("--backend", names, "--sparsity", "75", "--fail-fast")) == 3
    assert [r.status for r in read("csbench-results/records.jsonl")] == ["error"]


def test_a_case_over_its_time_limit_gives_124(folder: Path) -> None:
    assert run(infer("--backend", backend("Hangs"), "--sparsity", "75", "--timeout", "1")) == 124
    assert [r.status for r in read("csbench-results/records.jsonl")] == ["timeout"]


def test_ctrl_c_saves_what_was_measured_and_gives_130(folder: Path) -> None:
    names = f"{backend('Wrapped')},{backend('InterruptsItsParent')},{backend('Wrapped')}"
    done = subprocess.run(
        [sys.executable, "-m", "csbench", *infer("--backend", names, "--sparsity", "75")],
        capture_output=True, text=True, check=False, timeout=120, cwd=folder,
        env={**os.environ, "PYTHONPATH": str(BENCH.parent.parent)},
        # A shell that runs the tests in the background has its children ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert done.returncode == 130, done.stderr
    assert "interrupted; what was measured is saved" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(read(folder / "csbench-results" / "records.jsonl")) == 1
    assert "cs:4" in done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_one_line_and_the_results_are_printed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "full.jsonl").symlink_to("/dev/full")
    code = run(infer("--backend", "fake", "--sparsity", "75", "-o", "full.jsonl"))
    out, err = capsys.readouterr()
    assert code == 1
    assert "No space left on device" in err and "--resume" in err
    assert "record in full.jsonl" not in err  # it is not there
    assert "cs:4" in out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--model", "resnet51"], "unknown model 'resnet51'; did you mean resnet50"),
        (["--model", "resnet20", "--pattern", "blok"], "unknown pattern 'blok'; did you mean bl"),
        (["--model", "resnet20", "--backend", "cudn"], "unknown backend 'cudn'; did you mean cu"),
        (
            ["--model", "resnet20", "--baseline", "one"],
            "unknown backend 'one'; did you mean onednn",
        ),
        (["--model", "resnet20", "--dtype", "fp64"], "unknown dtype 'fp64'"),
        (["--model", "resnet20", "-d", "gpu"], "unknown device 'gpu'; known: auto, cpu, cuda"),
        (["--model", "resnet20", "-b", "0"], "batch size '0' is not a whole number of at least 1"),
        (["--model", "resnet20", "-b", "1,,2"], "an empty value"),
        (
            ["--model", "resnet20", "--pattern", "cs", "--sparsity", "60"],
            "cannot give 60 %; it gives 0, 50, 75",
        ),
        (["--model", "resnet20", "--pattern", "cs@75", "--sparsity", "50"], "one of the two"),
        (["--model", "resnet20", "--sparsity", "200"], "not between 0 and 100 %"),
        (["--model", "resnet20", "--input-size", "224"], "expected for example 3x224x224"),
        (["--model", "resnet20", "--min-time", "0"], "min_time is 0"),
        (["--model", "resnet20", "--max-time", "0"], "max_time is 0"),
        (["--model", "resnet20", "--timeout", "inf"], "timeout is inf"),
        (["--model", "resnet20", "--rtol", "nan"], "'nan' is not a share"),
        (["--model", "resnet20", "-r", "0"], "'--runs'"),
        (["--modle", "resnet20"], "No such option"),
        (["--pattern", "block"], "Missing option '--model'; type csbench infer --help"),
        (["--model", "resnet20", "-o", "/dev/null/x"], "cannot write records to '/dev/null/x'"),
    ],
)
def test_bad_input_is_one_line_and_2_before_any_worker_starts(
    folder: Path, arguments: list[str], line: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def no_worker(*_: object) -> None:
        raise AssertionError("a worker was started")

    monkeypatch.setattr("csbench.bench.runner.Worker", no_worker)
    assert run(["infer", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("csbench: ")
    assert line in err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--model", "none.py:net"], "no file 'none.py'"),
        (["--model", "resnet20", "--checkpoint", "none.pth"], "no checkpoint 'none.pth'"),
        (["--model", "resnet20", "--pattern", "block:512x512"], "can carry block:512x512"),
    ],
)
def test_bad_input_that_only_a_worker_can_tell_is_one_line_and_2(
    folder: Path, arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["infer", *arguments]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert line in err

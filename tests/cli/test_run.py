"""csbench run: suites by name and by file, resume after a kill."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from csbench import resources
from csbench.cli import run
from csbench.core.store import read

BENCH = Path(__file__).parent.parent / "bench"

SUITE = f"""
[stop]
runs = 2
warmup = 0
max_noise = 0.99

[[cases]]
model = "{BENCH / "tiny.py"}:tiny"
pattern = "cs"
sparsity = [50, 75, 87.5]
backend = "fake"
baseline = "fake"
"""


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CSBENCH_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a suite of three cases, to type commands in."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.toml"
    path.write_text(SUITE)
    return path


def test_cases_with_the_same_dense_network_follow_each_other(
    suite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also across the sweeps of a suite: the baseline of two cases is made once."""
    more = SUITE[SUITE.index("\n[[") :].replace('"cs"', '"unstructured"')
    suite.write_text(SUITE.replace('"cs"', '"cs"\nbatch = [1, 2]') + more)
    assert run(["run", "mine.toml", "--dry-run"]) == 0
    rows = capsys.readouterr().out.splitlines()
    batches = [re.findall(r"batch \d", row)[0] for row in rows]
    assert batches == 6 * ["batch 1"] + 3 * ["batch 2"]


def test_the_makefile_measures_suites_that_there_are() -> None:
    makefile = Path(__file__).parents[2] / "Makefile"
    (named,) = re.findall(r"^SUITES \?= (.*)$", makefile.read_text(), flags=re.MULTILINE)
    assert {"table11", "patterns"} < set(named.split())
    for suite in named.split():
        assert resources.path("suites", suite).is_file()


def test_a_killed_run_is_resumed_without_measuring_again(suite: Path) -> None:
    """Killed after its first record, with no chance to tidy up; only the rest is measured."""
    command = [sys.executable, "-m", "csbench", "run", "mine.toml", "-v"]
    env = {**os.environ, "PYTHONPATH": str(BENCH.parent.parent)}
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
    assert first.stderr is not None
    for line in first.stderr:
        if line.startswith("[1/3]"):
            first.send_signal(signal.SIGKILL)
            break
    first.wait()
    first.stderr.close()
    records = suite.parent / "csbench-results" / "records.jsonl"
    saved = read(records)
    assert 1 <= len(saved) < 3
    assert run(["run", "mine.toml", "--resume", "--threads", "1"]) in (0, 5)
    assert read(records)[: len(saved)] == saved
    done = [r.case.sparsity for r in read(records) if r.status == "ok"]
    assert len(done) == len(set(done))
    assert {r.case.sparsity for r in read(records)} == {0.5, 0.75, 0.875}


def test_suites_are_found_by_name_from_any_folder(
    suite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["run", "table11", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 5
    assert all("resnet50 block:32x32" in line for line in lines)


def test_options_override_a_suites_stop_rule(suite: Path) -> None:
    run(["run", "mine.toml", "-r", "3", "--threads", "1", "-q"])
    records = read("csbench-results/records.jsonl")
    assert {len(r.measurement.samples_ms) for r in records if r.measurement} == {3}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["table12"], "unknown suite 'table12'; did you mean table11"),
        (["none/mine.toml"], "no suite file 'none/mine.toml'"),
        (["wrong.toml"], "wrong.toml, cases 1: unknown axis 'sparsities'; did you mean sparsity"),
        (["mine.toml", "--devices", "a,b"], "expected for example 0,1"),
    ],
)
def test_a_wrong_suite_is_one_line_and_2(
    suite: Path, arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("wrong.toml").write_text('[[cases]]\nmodel = "resnet20"\nsparsities = [50]\n')
    assert run(["run", *arguments]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert line in err

"""csbench backends: the list names everything, the test's exit code tells a cheat."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from csbench.backends import registry
from csbench.cli import run

pytestmark = pytest.mark.usefixtures("one_thread")

CHEATS = Path(__file__).parent.parent / "backends" / "cheats.py"


def test_the_list_names_every_backend_and_what_is_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["backends"]) == 0
    plain = capsys.readouterr().out
    assert run(["backends", "list"]) == 0
    assert capsys.readouterr().out == plain
    for name in registry.BUILT_IN:
        assert name in plain
    lack = registry.get("cudnn").missing("cuda")
    assert lack is None or f"cudnn on cuda: {lack}" in plain


def test_the_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["backends", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    on_gpu = None if torch.cuda.is_available() else "no CUDA device"
    assert rows["fake"]["status"] == {"cpu": None, "cuda": on_gpu}
    assert rows["fake"]["from"] == "built-in"
    assert rows["onednn"]["patterns"] == ["dense"]
    assert rows["fake"]["dtypes"] == ["fp32", "tf32", "fp16", "bf16"]
    assert rows["cs"]["device_dtypes"] == {
        "cpu": ["fp32"],
        "cuda": ["fp32", "tf32", "fp16", "bf16"],
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="it has a GPU")
def test_without_a_gpu_it_says_which_backends_need_hopper(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["backends", "list"]) == 0
    plain = capsys.readouterr().out.splitlines()
    named = {line.partition(" ")[0] for line in plain if "Hopper GPUs (H100, H200)" in line}
    assert named == {"cs", "nm", "cs-dense", "block-cutlass", "ovw", "shfl-bw", "block-vectors"}


def test_precisions_that_one_device_lacks_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["backends", "list"]) == 0
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("block-original  ")]
    assert ", fp32 only" in line and line.count("only") == 1


def test_a_broken_plug_in_is_listed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "sick-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sick\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[csbench.backends]\nill = no_such_module:Class\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert run(["backends", "list"]) == 0
    assert "backend 'ill' of package sick is broken: ModuleNotFoundError" in capsys.readouterr().out


def test_a_conforming_backend(capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["backends", "test", "fake", "-d", "cpu", "--dtype", "fp32", "--pattern", "dense"])
    out = capsys.readouterr().out
    assert code == 0
    assert out.startswith("fake on cpu, fp32, dense: conforms\n")
    assert out.count(" ok ") == 9
    assert "stream         skipped  a CPU has no streams" in out


@pytest.mark.parametrize("as_json", [False, True])
def test_a_cheat_is_rejected_with_exit_code_3(
    capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    arguments = ["backends", "test", f"{CHEATS}:OffByAThousandth", "--dtype", "fp32,fp16"]
    code = run([*arguments, "--pattern", "cs", *(["--json"] if as_json else [])])
    out = capsys.readouterr().out
    assert code == 3
    if as_json:
        reports = json.loads(out)
        assert [r["passed"] for r in reports] == [False, False]
        failed = [o for o in reports[0]["outcomes"] if o["status"] == "failed"]
        assert [(o["check"], o["reason"]) for o in failed] == [("correctness", "inaccurate")]
    else:
        assert "off-by-a-thousandth on cpu, fp32, cs: REJECTED: inaccurate" in out
        assert "  correctness    FAILED   inaccurate: relative error 1.0e-03, allowed 1e-05" in out


def test_a_precision_of_another_device_is_no_failure_unless_asked_for() -> None:
    arguments = ["backends", "test", f"{CHEATS}:RefusesHalf", "--pattern", "cs"]
    assert run(arguments) == 0
    assert run([*arguments, "--dtype", "fp16"]) == 3
    assert run(["backends", "test", f"{CHEATS}:RefusesEverything", "--pattern", "cs"]) == 3


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["fake", "--dtype", "fp31"], 2, "unknown precision 'fp31'; did you mean fp32"),
        (["fake", "--pattern", "blok"], 2, "unknown pattern 'blok'; did you mean block"),
        ([f"{CHEATS}:Honest", "--pattern", "nm"], 2, "backend 'honest': unknown pattern 'nm'"),
        (["fake", "-d", "tpu"], 2, "unknown device 'tpu'"),
        (["fak"], 2, "unknown backend 'fak'; did you mean fake"),
        ([f"{CHEATS}:NotReady"], 3, "is not ready on cpu: no licence; buy one"),
        ([f"{CHEATS}:Nobody"], 3, "has no attribute 'Nobody'"),
    ],
)
def test_wrong_arguments(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, part: str
) -> None:
    assert run(["backends", "test", *arguments]) == code
    captured = capsys.readouterr()
    assert part in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""

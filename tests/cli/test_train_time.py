"""csbench train-time from end to end on a tiny network: records, tables, checkpoints, bad input."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from csbench.cli import run
from csbench.cli.training import remarks
from csbench.core.projection import hours
from csbench.core.record import Record
from csbench.core.store import read
from csbench.core.training import TrainingReport, TrainSettings
from csbench.training.plan import Asked, plan

ROOT = Path(__file__).parents[2]
NETS = ROOT / "tests" / "training" / "nets.py"
QUICK = ["-r", "2", "-w", "0", "--threads", "1", "--max-noise", "99%", "--max-time", "0.2",
         "--min-time", "0.1", "-d", "cpu"]  # fmt: skip
SYNTHETIC = ["--dataset", "synthetic", "-b", "4"]
MEASURED = (0, 5)  # 5: a busy machine may be too noisy even for two pairs


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to type commands in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*arguments: str, net: str = "net") -> int:
    return run(["train-time", "--model", f"{NETS}:{net}", *QUICK, *arguments])


def records(folder: Path) -> list[Record]:
    return read(folder / "csbench-results" / "records.jsonl")


def report(record: Record) -> TrainingReport:
    assert isinstance(record.training, TrainingReport)
    return record.training


def test_two_schemes_make_two_records_and_the_tables(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--pattern", "nm,cs:4", *SYNTHETIC, "--epochs", "4", "--steps", "500") in MEASURED
    out, err = capsys.readouterr()
    nm, cs = records(folder)
    assert [r.case.backend for r in (nm, cs)] == ["nm", "cs"]
    assert [r.case.pattern for r in (nm, cs)] == ["nm:2:4", "cs:4"]
    assert [phase.name for phase in report(nm).phases] == ["SR-STE"]
    assert [phase.name for phase in report(cs).phases] == ["pruning", "fixed mask"]
    assert sum(phase.steps for phase in report(cs).phases) == 2000
    held = report(cs).held_out
    assert held is not None and held.phase == "pruning" and held.events >= 1
    split = report(nm).phases[0].split
    assert all(sum(split[part]) > 0 for part in ("mask", "forward", "backward", "regulariser"))
    assert cs.sparsity is not None and cs.sparsity.layers == 0.75
    found = hours(report(cs))
    assert found is not None and found.low <= found.value <= found.high
    assert "projected" in out and "65.37" in out and "Left out:" in out
    assert "CS over N:M at batch 4" in out.replace("\n", " ")
    assert "synthetic images" in err

    assert run(["report", "--table", "table10", "--format", "markdown"]) == 0
    assert "Sparse-refined regularization" in capsys.readouterr().out


def test_what_is_saved_keeps_its_pattern_and_infer_and_train_time_load_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--pattern", "cs:4", *SYNTHETIC, "--save", "cs.safetensors") in MEASURED
    assert run(["inspect", "cs.safetensors", "--pattern", "cs:4"]) == 0
    quick = ["-r", "2", "-w", "0", "--threads", "1", "--max-noise", "99%", "--dry-run"]
    model = ["--model", f"{NETS}:net", "--checkpoint", "cs.safetensors"]
    assert run(["infer", *model, "--backend", "masked", "--baseline", "fake", *quick]) == 0
    assert "cs:4" in capsys.readouterr().out
    assert train("--pattern", "cs:4", *SYNTHETIC, "--checkpoint", "cs.safetensors") in MEASURED
    assert records(folder)[-1].case.checkpoint.path == "cs.safetensors"


@pytest.mark.parametrize("scheme", ["cs:4", "nm:1:4"])
def test_a_small_training_learns_to_tell_digits(scheme: str, folder: Path) -> None:
    pytest.importorskip("sklearn")
    whole = ["--dataset", "digits", "--input-size", "3x8x8", "--train", "--epochs", "5"]
    rates = ["--lr", "0.1", "--finetune-lr", "0.05", "--interval", "5", "-b", "32",
             "--warmup-epochs", "1"]  # fmt: skip
    assert train("--pattern", scheme, *whole, *rates, "--save", "digits.safetensors") == 0
    record = records(folder)[-1]
    epochs = report(record).epochs
    assert len(epochs) == 5 and record.status == "ok"
    assert epochs[-1].loss < epochs[0].loss / 2
    assert epochs[-1].accuracy > 0.6  # by chance one in ten
    assert run(["inspect", "digits.safetensors", "--pattern", scheme]) == 0
    assert run(["report", "--table", "accuracy"]) == 0


def test_a_batch_that_does_not_fit_is_said_with_one_that_does(folder: Path) -> None:
    assert train("--pattern", "cs", *SYNTHETIC[:2], "-b", "64", net="greedy") == 3
    (record,) = records(folder)
    assert record.status == "oom" and record.measurement is None
    assert record.case.batch == 64
    assert record.reason is not None and record.reason.endswith("a batch of 4 fits; type -b 4")


def test_where_nothing_was_projected_nothing_is_said_of_hours(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--pattern", "cs", *SYNTHETIC[:2], "-b", "64", net="greedy") == 3
    out = capsys.readouterr().out
    assert "OOM" in out and "Left out" not in out and "projected: steps" not in out


def test_a_loss_that_is_no_number_makes_the_record_invalid(folder: Path) -> None:
    assert train("--pattern", "cs", *SYNTHETIC, "--lr", "1e30") == 5
    (record,) = records(folder)
    assert record.status == "invalid" and "not finite in the phase 'pruning'" in str(record.reason)
    assert "--lr" in str(record.reason)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pattern", "mn"], "unknown training scheme 'mn'; did you mean nm"),
        (["--pattern", "cs", "--sparsity", "60"], "cannot give 60 %"),
        (["--pattern", "block:128x128"], "less than half of a block of 128"),
        (["--pattern", "cs", "--dataset", "mnist"], "unknown dataset 'mnist'"),
        (["--pattern", "cs", "--data", "nowhere"], "no data folder 'nowhere'"),
        (["--pattern", "cs", "--data", ".", "--dataset", "digits"], "scikit-learn ships it"),
        (["--pattern", "cs", "--amp", "tf32"], "tf32 is a precision of GPUs"),
        (["--pattern", "cs", "--train", *SYNTHETIC], "--train needs real images"),
        (["--pattern", "cs,nm", "--save", "x.safetensors"], "--save takes one scheme"),
        (["--pattern", "cs", "--save", "x.pth"], "csbench saves safetensors"),
        (["--pattern", "cs", "-d", "cuda:1"], "several by torchrun"),
        (["--pattern", "cs", "--lr", "-1", *SYNTHETIC], "a learning rate is a number above 0"),
        (["--pattern", "cs,,nm"], "an empty value in --pattern"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[str], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(*arguments) == 2
    assert said in capsys.readouterr().err
    assert not (folder / "csbench-results").exists() or not records(folder)


def test_a_folder_that_is_wrong_is_the_last_line_and_nothing_else_is_claimed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--pattern", "cs", "--dataset", "cifar100", "--data", ".") == 2
    err = capsys.readouterr().err
    assert "no file 'train'" in err.splitlines()[-1]
    assert "nothing to measure" not in err


@pytest.mark.parametrize(("batch", "other"), [(8, True), (32, False)])
def test_a_cpu_is_said_and_a_batch_that_is_not_the_sources(batch: int, other: bool) -> None:
    line, _ = remarks(plan(Asked(scheme="cs", batch=batch, device="cpu")))
    assert f"a CPU: batch {batch}" in line and ("not the source's" in line) is other


def test_a_case_that_is_there_is_not_measured_again(folder: Path) -> None:
    assert train("--pattern", "dense", *SYNTHETIC) in MEASURED
    assert train("--pattern", "dense", *SYNTHETIC, "--resume") in MEASURED
    record, *again = records(folder)
    assert len(again) == (record.status != "ok")
    assert record.case.baseline == "plain loop"
    assert isinstance(record.case.training, TrainSettings)


def test_a_suite_names_schemes_and_is_run_with_the_others(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["run", "training_hours", "--dry-run"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == 17 and sum("batch 256" in line for line in listed) == 9
    suite = f"""
[[cases]]
task = "train-step"
model = "{NETS}:net"
dataset = "synthetic"
backend = ["dense", "cs-c"]
epochs = 3
batch = 4
device = "cpu"
"""
    (folder / "mine.toml").write_text(suite)
    assert run(["run", "mine.toml", *QUICK[:-2]]) in MEASURED
    assert [r.case.backend for r in records(folder)] == ["dense", "cs-c"]
    assert [phase.name for phase in report(records(folder)[1]).phases] == ["dense", "fixed mask"]
    (folder / "mixed.toml").write_text(suite.replace('"train-step"', '["train-step", "infer"]'))
    assert run(["run", "mixed.toml"]) == 2
    assert "a table of its own" in capsys.readouterr().err


def torchrun(folder: Path, *arguments: str, net: str = "net") -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone",
        "-m", "csbench", "train-time", "--model", f"{NETS}:{net}", *QUICK, *arguments,
    ]  # fmt: skip
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False
    )


def test_two_ranks_write_one_record(folder: Path) -> None:
    done = torchrun(folder, "--pattern", "cs", *SYNTHETIC)
    assert done.returncode == 0, done.stderr
    (record,) = records(folder)
    assert isinstance(record.case.training, TrainSettings) and record.case.training.ranks == 2
    assert record.case.training.steps_per_epoch == 1_000_000 // 8
    found = report(record)
    assert found.ddp_ms and len(found.ddp_ms) == len(found.plain_ms)
    assert done.stdout.count("projected hours") + done.stdout.count("Training time on") == 1
    assert "2 ranks" in done.stdout


def test_a_rank_that_dies_ends_all_and_is_named(folder: Path) -> None:
    done = torchrun(folder, "--pattern", "cs", *SYNTHETIC, net="mortal")
    assert done.returncode != 0
    assert "exitcode  : 7" in done.stderr and "rank      : 1" in done.stderr


def test_a_rank_that_fails_ends_all_and_torchrun_ends_with_its_error(folder: Path) -> None:
    done = torchrun(folder, "--pattern", "cs", *SYNTHETIC, net="failing")
    assert done.returncode != 0
    assert "csbench: rank 1: RuntimeError: the disk is on fire" in done.stderr
    root = done.stderr[done.stderr.index("Root Cause") :]
    assert "RuntimeError: the disk is on fire" in root


def test_a_rank_that_hangs_ends_all_within_the_bound(folder: Path) -> None:
    done = torchrun(folder, "--pattern", "cs", *SYNTHETIC, "--timeout", "5", net="stuck")
    assert done.returncode != 0
    (record,) = records(folder)
    assert record.status in ("timeout", "error") and record.reason
    assert str(record.reason) in done.stderr


def test_ranks_that_run_out_of_memory_all_end_and_say_so(folder: Path) -> None:
    done = torchrun(folder, "--pattern", "cs", *SYNTHETIC[:2], "-b", "64", net="greedy")
    assert done.returncode != 0
    (record,) = records(folder)
    assert record.status == "oom"
    assert str(record.reason).endswith("start it once without torchrun")


def test_the_help_names_the_defaults_of_trainings(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train-time", "--help"]) == 0
    out = capsys.readouterr().out
    assert "at most [60]" in out and "[2%]" in out
    assert "--copies" not in out  # of networks

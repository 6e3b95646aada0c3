"""csbench sparsify: a pruned checkpoint, its sparsities, and what stayed dense."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from csbench import models
from csbench.cli import run
from csbench.sparse import checkpoint


def test_a_model_is_pruned_and_reads_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "block.safetensors"
    arguments = ["--model", "resnet20", "--pattern", "block:16x16", "--sparsity", "75%"]
    assert run(["sparsify", *arguments, "-o", str(out)]) == 0
    text = capsys.readouterr().out
    loaded = checkpoint.load(out)
    assert f"sha256   {loaded.sha256}" in text
    assert "dense: the stem: 3 input channels" in text
    assert "dense: a block row is a single block" in text
    assert "pattern  block:16x16@0.75 in 19 of 22 layers" in text
    assert loaded.metadata["pattern"] == "block:16x16@0.75"
    assert loaded.metadata["model"] == "resnet20"
    assert loaded.metadata["seed"] == "0"
    assert run(["inspect", str(out), "--pattern", "block:16x16@0.75"]) == 0


def test_a_file_is_pruned_and_its_weights_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = models.build("resnet20", seed=3).state_dict()
    torch.save({"state_dict": state}, tmp_path / "dense.pth")
    out = tmp_path / "nm.safetensors"
    arguments = [str(tmp_path / "dense.pth"), "--pattern", "nm:2:4", "-o", str(out), "--json"]
    assert run(["sparsify", *arguments]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["sparsity"]["layers"] == 0.5
    reasons = {layer["name"]: layer["reason"] for layer in done["layers"] if layer["reason"]}
    assert reasons == {"conv1": "the stem: 3 input channels", "fc": "the classifier"}
    loaded = checkpoint.load(out)
    weight, dense = loaded.state_dict["layer1.0.conv1.weight"], state["layer1.0.conv1.weight"]
    assert torch.equal(weight[weight != 0], dense[weight != 0])
    assert torch.equal(loaded.state_dict["fc.weight"], state["fc.weight"])


def test_the_seed_decides_the_weights(tmp_path: Path) -> None:
    hashes = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        out = tmp_path / f"{name}.safetensors"
        arguments = ["--model", "resnet20", "--pattern", "cs:4", "--seed", seed, "-o", str(out)]
        assert run(["sparsify", *arguments]) == 0
        hashes.append(checkpoint.load(out).sha256)
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pattern", "cs:4"], "expected one of FILE and --model"),
        (["--model", "resnet20", "--pattern", "block"], "needs a sparsity"),
        (["--model", "resnet20", "--pattern", "cs", "--sparsity", "60%"], "cannot give 60 %"),
        (
            ["--model", "resnet20", "--pattern", "nm:2:4", "--sparsity", "0.9"],
            "is 50 % sparse, not 90 %",
        ),
        (["--model", "resnet20", "--pattern", "ovw@0.5", "--sparsity", "0.75"], "differ"),
        (["--model", "resnet20", "--pattern", "blok@0.5"], "did you mean block"),
        (["--model", "resnet2O", "--pattern", "cs:4"], "unknown model"),
        (["none.pth", "--pattern", "cs:4"], "no checkpoint 'none.pth'"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.safetensors"
    assert run(["sparsify", *arguments, "-o", str(out)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert not out.exists()


def test_a_target_of_another_kind_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", "resnet20", "--pattern", "cs:4", "-o", str(tmp_path / "out.pth")]
    assert run(["sparsify", *arguments]) == 2
    assert "type " in capsys.readouterr().err

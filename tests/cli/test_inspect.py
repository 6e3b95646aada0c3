"""csbench inspect: what a checkpoint holds, and where it breaks a pattern."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from csbench import models
from csbench.cli import run
from csbench.core.pattern import parse
from csbench.sparse import checkpoint
from csbench.sparse.network import sparsify_state


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense, a pruned and a damaged resnet20."""
    folder = tmp_path_factory.mktemp("checkpoints")
    state = models.build("resnet20").state_dict()
    torch.save({"state_dict": state}, folder / "dense.pth")
    pruned, _ = sparsify_state(state, parse("cs:4"))
    checkpoint.save(folder / "cs4.safetensors", pruned, {"pattern": "cs:4"})
    stray = pruned["layer2.0.conv1.weight"].clone()
    stray[tuple((stray == 0).nonzero()[0])] = 0.5
    torch.save({**pruned, "layer2.0.conv1.weight": stray}, folder / "stray.pth")
    ragged, _ = sparsify_state(state, parse("block:24x24@0.5"))
    torch.save(ragged, folder / "block.pth")
    return folder


def test_a_table_for_people(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(folder / "cs4.safetensors")]) == 0
    out = capsys.readouterr().out
    assert "pattern  cs:4 in 20 of 22 layers" in out
    assert "dense: the stem: 3 input channels" in out
    assert "75.00 % of those layers" in out
    row = next(line for line in out.splitlines() if line.startswith("layer1.0.conv1"))
    assert row.split()[:5] == ["layer1.0.conv1", "16x16x3x3", "75.00", "cs:4", "0"]


def test_json_for_programs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(folder / "cs4.safetensors"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["pattern"] == "cs:4"
    assert found["broken"] is None
    assert found["sparsity"]["layers"] == 0.75
    assert 0.7 < found["sparsity"]["model"] < 0.75
    layer = next(layer for layer in found["layers"] if layer["name"] == "layer3.2.conv2")
    assert layer["shape"] == [64, 64, 3, 3]
    assert layer["pattern"] == "cs:4"
    assert layer["violations"] == 0


def test_a_dense_checkpoint(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(folder / "dense.pth")]) == 0
    assert "pattern  dense" in capsys.readouterr().out


@pytest.mark.parametrize("pattern", ["cs:4", "cs", "cs:2", "unstructured@0.75"])
def test_a_pattern_that_holds(folder: Path, pattern: str) -> None:
    assert run(["inspect", str(folder / "cs4.safetensors"), "--pattern", pattern]) == 0


@pytest.mark.parametrize("pattern", ["cs:8", "nm:2:4", "block", "block:16x16@0.5", "ovw:8"])
def test_a_pattern_that_is_broken_is_exit_2_with_coordinates(
    folder: Path, pattern: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", str(folder / "cs4.safetensors"), "--pattern", pattern]) == 2
    captured = capsys.readouterr()
    assert "layer layer1.0.conv1: " in captured.err
    assert "first at [" in captured.err
    assert "what holds is cs:4" in captured.err
    assert "layer1.0.conv1" in captured.out  # the table is printed all the same


def test_one_stray_weight_is_found_without_being_told_the_pattern(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", str(folder / "stray.pth")]) == 0
    out = capsys.readouterr().out
    assert "pattern  cs:4 in 20 of 22 layers, broken" in out
    assert "broken   layer layer2.0.conv1: 1 weight breaks cs:4, first at [0, " in out


def test_padding_is_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["inspect", str(folder / "block.pth"), "--pattern", "block:24x24", "--json"]
    assert run(arguments) == 0
    layers = {layer["name"]: layer for layer in json.loads(capsys.readouterr().out)["layers"]}
    assert layers["layer2.1.conv1"]["padding"] == 9 * (48 * 48 - 32 * 32)


def test_bad_input_is_one_line_and_exit_2(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.pth").touch()
    for arguments in (
        [str(tmp_path / "none.pth")], [str(tmp_path / "empty.pth")], [str(tmp_path)],
        [str(folder / "dense.pth"), "--pattern", "blok"],
        [str(folder / "dense.pth"), "--pattern", "nm:4:2"],
    ):  # fmt: skip
        assert run(["inspect", *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert len(captured.err.splitlines()) == 1

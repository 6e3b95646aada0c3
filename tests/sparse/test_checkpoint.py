"""Checkpoints as people have them load alike; damaged and hostile ones are one clear line."""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle
import stat
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from csbench.errors import CheckpointError, UsageError
from csbench.sparse import checkpoint


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(3, 8, 3), norm=nn.BatchNorm2d(8), flat=nn.Flatten(), fc=nn.Linear(8, 10)
        )
    )


STATE = dict(network().state_dict())


def prefixed(prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in STATE.items()}


def same(state: dict[str, Tensor], tolerance: float = 0.0) -> None:
    assert set(state) == set(STATE)
    for key, value in STATE.items():
        assert state[key].dtype == value.dtype
        assert torch.allclose(state[key], value, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(
    ("content", "tolerance"),
    [
        (STATE, 0),
        (OrderedDict(STATE), 0),
        ({"state_dict": STATE, "epoch": 3, "best": torch.tensor(0.7)}, 0),
        ({"model": STATE, "optimizer": {"state": {}, "param_groups": []}}, 0),
        ({"ema": STATE}, 0),
        ({"state_dict_ema": STATE}, 0),
        ({"model_state_dict": STATE}, 0),
        ({"net": prefixed("module.")}, 0),
        ({"model": {"state_dict": prefixed("module._orig_mod.")}}, 0),
        ({"args": argparse.Namespace(lr=0.1), "state_dict": STATE}, 0),
        (prefixed("module."), 0),
        (prefixed("_orig_mod."), 0),
        (prefixed("model."), 0),
        ({"n_averaged": torch.tensor(4), **prefixed("module.")}, 0),
        ({k: v.half() if v.is_floating_point() else v for k, v in STATE.items()}, 1e-3),
        ({k: v.bfloat16() if v.is_floating_point() else v for k, v in STATE.items()}, 1e-2),
        ({k: v.double() if v.is_floating_point() else v for k, v in STATE.items()}, 0),
    ],
    ids=range(17),
)
@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_save_wrote_loads_alike(
    tmp_path: Path, content: Any, tolerance: float, zipped: bool
) -> None:
    file = tmp_path / "model.pth"
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    loaded = checkpoint.load(file)
    state = loaded.state_dict
    state.pop("n_averaged", None)
    same(state, tolerance)
    assert loaded.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert loaded.classes == 10


def test_the_format_is_told_by_content_not_by_name(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "a.bin")
    (tmp_path / "b.pth").write_bytes(safetensors.torch.save(STATE))
    for name in ("a.bin", "b.pth"):
        same(checkpoint.load(tmp_path / name).state_dict)


def test_prunes_masks_are_applied(tmp_path: Path) -> None:
    model = network()
    prune.l1_unstructured(model.conv, "weight", 0.5)
    prune.l1_unstructured(model.fc, "bias", 0.5)
    torch.save(model.state_dict(), tmp_path / "pruned.pth")
    state = checkpoint.load(tmp_path / "pruned.pth").state_dict
    assert set(state) == set(STATE)
    assert torch.equal(state["conv.weight"], model.conv.weight.detach())
    assert int(state["conv.weight"].count_nonzero()) == state["conv.weight"].numel() // 2
    assert int(state["fc.bias"].count_nonzero()) == 5


def test_saving_and_loading_gives_the_same(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    digest = checkpoint.save(file, STATE, {"pattern": "cs:4"})
    loaded = checkpoint.load(file)
    same(loaded.state_dict)
    assert loaded.sha256 == digest
    assert loaded.metadata["pattern"] == "cs:4"
    assert loaded.metadata["csbench"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask


def test_tied_and_strided_tensors_are_saved(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    state = {"a.weight": base, "b.weight": base, "c.weight": base.T}
    checkpoint.save(tmp_path / "tied.safetensors", state, {})
    loaded = checkpoint.load(tmp_path / "tied.safetensors").state_dict
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.safetensors"
    checkpoint.save(file, STATE, {})
    before = file.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(file, {"other.weight": torch.ones(4, 4)}, {})
    assert file.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_target_that_cannot_be_written_is_said_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"type .*out\.safetensors"):
        checkpoint.target(tmp_path / "out.pth")
    with pytest.raises(UsageError, match="no folder"):
        checkpoint.target(tmp_path / "missing" / "out.safetensors")


def test_a_folder_that_cannot_be_written_is_a_wrong_argument(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied", ".hidden.tmp")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(
        UsageError, match=r"cannot write '.*a\.safetensors': Permission denied; name"
    ):
        checkpoint.save(tmp_path / "a.safetensors", STATE, {})


# Bad input.


class Opens:
    """A pickle that would create a file when loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def test_a_pickle_that_runs_code_does_not_run(tmp_path: Path) -> None:
    for zipped in (True, False):
        content = {"state_dict": STATE, "extra": Opens(tmp_path / "ran")}
        torch.save(content, tmp_path / "evil.pth", _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match=r"holds Python objects .*open.* runs code"):
            checkpoint.load(tmp_path / "evil.pth")
        assert not (tmp_path / "ran").exists()


def test_a_plain_pickle_that_runs_code_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Opens(tmp_path / "ran")))
    with pytest.raises(CheckpointError, match="is not a checkpoint of tensors") as error:
        checkpoint.load(tmp_path / "evil.pth")
    assert "weights_only" not in str(error.value)  # torch's advice to load it all the same
    assert not (tmp_path / "ran").exists()


def test_a_whole_pickled_model_is_refused_with_advice(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "whole.pth")
    with pytest.raises(CheckpointError, match=r"torch\.save\(model\.state_dict\(\)"):
        checkpoint.load(tmp_path / "whole.pth")


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def cut(path: Path, share: float) -> Path:
    return write(path, path.read_bytes()[: int(path.stat().st_size * share)])


def bad_weight(value: float) -> dict[str, Tensor]:
    weight = STATE["conv.weight"].clone()
    weight[1, 2, 0, 1] = value
    return {**STATE, "conv.weight": weight}


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda d: d / "none.pth", "no checkpoint '.*none.pth'"),
    "near": (lambda d: saved(d / "model.pth", STATE).with_name("modl.pth"), "did you mean .*model"),
    "empty": (lambda d: write(d / "a.pth", b""), r"is empty \(0 bytes\)"),
    "text": (lambda d: write(d / "a.pth", b"hello, all"), "is not a checkpoint .*b'hello, all'"),
    "short": (lambda d: write(d / "a.safetensors", b"ab"), "is not a checkpoint"),
    "lfs": (lambda d: write(d / "a.pth", b"version https://git-lfs.github.com"), "git lfs pull"),
    "directory": (lambda d: saved(d / "b.pth", STATE).parent, "is a directory.*b.pth"),
    "cut zip": (lambda d: cut(saved(d / "a.pth", STATE), 0.6), "truncated, damaged"),
    "junk pickle": (lambda d: write(d / "a.pth", b"\x80\x02junk"), "a.pth' is not|truncated"),
    "junk zip": (lambda d: write(d / "a.pth", b"PK\x03\x04junk"), "truncated, damaged"),
    "a list": (lambda d: saved(d / "a.pth", [1, 2]), "holds no weights .it is a list"),
    "no weights": (lambda d: saved(d / "a.pth", {"lr": 0.1}), "holds no weights .its keys are lr"),
    "NaN": (lambda d: saved(d / "a.pth", bad_weight(torch.nan)),
            r"1 NaN and 0 infinite values in conv\.weight, first at \[1, 2, 0, 1\]"),
    "negative variance": (
        lambda d: saved(d / "a.pth", {**STATE, "norm.running_var": torch.tensor([1.0, -2.0])}),
        r"negative variance in norm\.running_var \(-2\)",
    ),
    "infinity": (lambda d: saved(d / "a.pth", bad_weight(-torch.inf)), "0 NaN and 1 infinite"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_line(tmp_path: Path, name: str) -> None:
    make, message = BAD[name]
    with pytest.raises(CheckpointError, match=message) as error:
        checkpoint.load(make(tmp_path))
    assert "\n" not in str(error.value)
    assert "internal miniz error" not in str(error.value)
    assert error.value.exit_code == 2


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_truncated_safetensors(tmp_path: Path, share: float) -> None:
    file = tmp_path / "model.safetensors"
    checkpoint.save(file, STATE, {})
    with pytest.raises(CheckpointError, match="truncated") as error:
        checkpoint.load(cut(file, share))
    assert "\n" not in str(error.value)


# Fitting a model.


def loaded(tmp_path: Path, state: dict[str, Tensor]) -> checkpoint.Checkpoint:
    return checkpoint.load(saved(tmp_path / "model.pth", state))


def test_a_checkpoint_that_fits_is_loaded(tmp_path: Path) -> None:
    model = network()
    nn.init.zeros_(model.conv.weight)
    counters = {k: v for k, v in STATE.items() if not k.endswith("num_batches_tracked")}
    checkpoint.fit(loaded(tmp_path, counters), model)
    assert torch.equal(model.conv.weight, STATE["conv.weight"])


def test_a_model_whose_own_names_carry_a_prefix(tmp_path: Path) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = network()

    model = Wrapped()
    nn.init.zeros_(model.model.conv.weight)
    checkpoint.fit(loaded(tmp_path, prefixed("model.")), model)
    assert torch.equal(model.model.conv.weight, STATE["conv.weight"])


def test_keys_that_do_not_fit_are_listed_first_few_then_counted(tmp_path: Path) -> None:
    state = {f"extra{i}.weight": torch.ones(2, 2) for i in range(5)}
    state |= {k: v for k, v in STATE.items() if not k.startswith("norm")}
    state["conv.weight"] = torch.ones(8, 3, 5, 5)
    with pytest.raises(CheckpointError) as error:
        checkpoint.fit(loaded(tmp_path, state), network(), "small")
    line = str(error.value)
    assert "does not fit small" in line
    assert "4 keys missing (norm.weight, norm.bias, norm.running_mean and 1 more)" in line
    assert "5 unknown (extra0.weight, extra1.weight, extra2.weight and 2 more)" in line
    assert "conv.weight is [8, 3, 5, 5], expected [8, 3, 3, 3]" in line
    assert "csbench inspect" in line


def test_another_number_of_classes_is_said_so(tmp_path: Path) -> None:
    state = {**STATE, "fc.weight": torch.ones(7, 8), "fc.bias": torch.ones(7)}
    with pytest.raises(CheckpointError, match="has 7 outputs in fc, small has 10"):
        checkpoint.fit(loaded(tmp_path, state), network(), "small")

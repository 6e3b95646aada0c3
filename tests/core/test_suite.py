"""Suites: what a file says, and one clear line for each way it can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from csbench import resources
from csbench.core.axes import AXES, MODELS, Sweep
from csbench.core.stop import StopRule
from csbench.core.suite import Suite, load
from csbench.errors import SuiteError, UsageError


def suite(folder: Path, text: str) -> Suite:
    path = folder / "mine.toml"
    path.write_text(text)
    return load(path)


def test_every_axis_of_a_sweep_can_be_written_in_a_file() -> None:
    assert set(AXES) == set(Sweep.__struct_fields__)


def test_lists_and_single_values_are_axes(tmp_path: Path) -> None:
    made = suite(
        tmp_path,
        """
        title = "Mine"
        [stop]
        max_noise = 0.02
        runs = 7
        [[cases]]
        model = ["resnet50", "timm:resnet26"]
        pattern = "block:16x16"
        sparsity = [0, 50, "75%", 0.875]
        batch = [1, 64]
        input = "3x192x192"
        """,
    )
    assert made.title == "Mine"
    assert made.stop == StopRule(max_noise=0.02, runs=7)
    (sweep,) = made.sweeps
    assert sweep.model == ("resnet50", "timm:resnet26")
    assert sweep.sparsity == (0.0, 0.5, 0.75, 0.875)
    assert (sweep.batch, sweep.input, sweep.dtype) == ((1, 64), ((3, 192, 192),), ("fp32",))


def test_checkpoints_stand_beside_their_suite(tmp_path: Path) -> None:
    made = suite(tmp_path, '[[cases]]\nmodel = "resnet50"\ncheckpoint = "a.safetensors"\n')
    assert made.sweeps[0].checkpoint == (str(tmp_path / "a.safetensors"),)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[[cases]]\nmodel = "resnet50"\nsparsities = [50]', "unknown axis 'sparsities'.*sparsity"),
        ('[[cases]]\nmodel = "resnet50"\nbatch = []', "axis 'batch' is empty"),
        ('[[cases]]\nmodel = "resnet50"\nbatch = 0', "batch size '0'.*at least 1"),
        ('[[cases]]\nmodel = "resnet50"\nbatch = true', "axis 'batch' holds True"),
        ('[[cases]]\nmodel = "resnet51"', "unknown model 'resnet51'.*resnet50"),
        ('[[cases]]\nmodel = "resnet50"\ndtype = "fp64"', "unknown dtype 'fp64'"),
        ('[[cases]]\nmodel = "resnet50"\ndevice = "gpu"', "unknown device 'gpu'"),
        ('[[cases]]\nmodel = "resnet50"\nsparsity = 200', "sparsity '200'"),
        ('[[cases]]\nmodel = "resnet50"\npattern = "block:0x4"', "positive whole numbers"),
        ('[[cases]]\nmodel = "resnet50"\ninput = "224"', "CxHxW"),
        ('[[cases]]\npattern = "cs"', "'model' is missing"),
        ('case = 1\n[[cases]]\nmodel = "resnet50"', "unknown key 'case'; did you mean cases"),
        ('[stop]\nmax_nois = 1\n[[cases]]\nmodel = "resnet50"', "unknown key 'max_nois'"),
        ('[stop]\nmax_noise = "low"\n[[cases]]\nmodel = "resnet50"', "max_noise"),
        ('[stop]\nmin_time = 20.0\n[[cases]]\nmodel = "resnet50"', "longer than max_time"),
        ("title = 'empty'", "no cases"),
        ("", "no cases"),
        ("[[cases", "not TOML"),
    ],
)
def test_a_wrong_suite_names_the_file_and_the_key(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(SuiteError, match=rf"mine\.toml.*{why}"):
        suite(tmp_path, text)


def test_a_missing_suite_file_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="no suite file"):
        load(tmp_path / "none.toml")


@pytest.mark.parametrize("name", resources.names("suites"))
def test_shipped_suites_are_right(name: str) -> None:
    made = load(resources.path("suites", name))
    assert made.sweeps
    assert made.title != name


def test_the_models_known_without_torch_are_those_that_csbench_builds() -> None:
    from csbench import models

    assert {name: models.default_input(name) for name in models.names()} == MODELS


@pytest.mark.parametrize("name", ["min_time", "max_time", "max_noise", "timeout"])
def test_a_stop_rule_without_end_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SuiteError, match=f"{name} is inf; expected a finite number"):
        suite(tmp_path, f'[stop]\n{name} = inf\n[[cases]]\nmodel = "resnet50"')


def test_a_stop_rule_of_no_time_is_refused() -> None:
    with pytest.raises(UsageError, match="max_noise is 0"):
        StopRule(max_noise=0)

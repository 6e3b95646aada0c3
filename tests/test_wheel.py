"""The wheel carries the suites and templates, and works in a clean place from an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that the source tree stays clean."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignore = shutil.ignore_patterns(".git", ".venv*", ".*_cache", "csbench-results", "__pycache__")
    shutil.copytree(ROOT, source, ignore=ignore)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", folder, source],
        check=True,
        capture_output=True,
    )
    return next(folder.glob("*.whl"))


def test_wheel_holds_suites_templates_and_kernels(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for suite in (ROOT / "suites").glob("*.toml"):
        assert f"csbench/_data/suites/{suite.name}" in names
    for template in (ROOT / "reports" / "templates").iterdir():
        assert f"csbench/_data/templates/{template.name}" in names
    for published in (ROOT / "reports" / "paper").iterdir():
        assert f"csbench/_data/paper/{published.name}" in names
    for source in (ROOT / "csbench" / "kernels").rglob("*.c*"):
        assert source.relative_to(ROOT).as_posix() in names or "__pycache__" in source.parts


def test_installed_wheel_runs_smoke_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
         "--target", site, wheel],
        check=True,
    )  # fmt: skip
    empty = tmp_path / "empty"
    empty.mkdir()
    # -P and the target folder alone: the source tree must not be found by accident.
    env = {**os.environ, "PYTHONPATH": str(site), "CSBENCH_CACHE_DIR": str(tmp_path / "cache")}
    run = [sys.executable, "-m", "csbench"]
    where = subprocess.run(
        [sys.executable, "-c", "import csbench; print(csbench.__file__)"],
        cwd=empty, env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert str(site) in where.stdout
    done = subprocess.run(
        [*run, "run", "smoke"], cwd=empty, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 5), done.stderr  # 5: measured, but this machine was noisy
    records = empty / "csbench-results" / "records.jsonl"
    assert records.read_text().count("\n") >= 2
    report = subprocess.run(
        [*run, "report", "--format", "latex"], cwd=empty, env=env, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert report.returncode == 0, report.stderr
    assert r"\toprule" in report.stdout

"""Shipped files are found in the source tree and in a wheel's layout, and a wrong name is told."""

from pathlib import Path

import pytest

from csbench import resources
from csbench.errors import UsageError


def test_published_tables_are_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "table11" in resources.names("paper")
    assert resources.path("paper", "table11").read_text().startswith("#")


def test_the_wheel_layout_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = tmp_path / "_data" / "suites"
    shipped.mkdir(parents=True)
    (shipped / "mine.toml").write_text("# one")
    (shipped / ".hidden.toml").write_text("")
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path)
    assert resources.names("suites") == ["mine"]
    assert resources.path("suites", "mine") == shipped / "mine.toml"
    assert resources.path("suites", "mine.toml") == shipped / "mine.toml"


def test_a_wrong_name_lists_near_ones() -> None:
    with pytest.raises(UsageError, match="'table12'; did you mean table11"):
        resources.path("paper", "table12")


def test_a_name_cannot_leave_its_folder() -> None:
    with pytest.raises(UsageError):
        resources.path("paper", "../templates/document")

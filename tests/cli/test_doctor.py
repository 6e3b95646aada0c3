"""csbench doctor says what is missing and how to get it, and fails only where nothing can run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from csbench.backends import registry
from csbench.cli import doctor, run


def lines(capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, list[dict[str, object]]]:
    """The findings by name."""
    assert run(["doctor", "--json"]) == code
    found: dict[str, list[dict[str, object]]] = {}
    for line in json.loads(capsys.readouterr().out):
        found.setdefault(line["name"], []).append(line)
    return found


def test_a_line_a_finding(capsys: pytest.CaptureFixture[str]) -> None:
    found = lines(capsys)
    assert {"csbench", "python", "torch", "cpu", "compiler", "gpu", "cache", "output"} <= set(found)
    assert found["torch"][0]["status"] == "ok"
    assert not [f for group in found.values() for f in group if "Error:" in str(f["detail"])]
    assert run(["doctor"]) == 0
    text = capsys.readouterr().out.splitlines()
    assert len(text) == sum(len(group) for group in found.values())
    assert all(line.split()[1] in ("ok", "missing") for line in text)


def test_a_missing_compiler_is_told_with_its_remedy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    compiler = lines(capsys)["compiler"][0]
    assert compiler["status"] == "missing"
    assert "CXX=g++" in str(compiler["detail"])


def test_folders_that_cannot_be_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CSBENCH_CACHE_DIR", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    found = lines(capsys)
    assert found["cache"][0]["status"] == "missing"
    assert "CSBENCH_CACHE_DIR" in str(found["cache"][0]["get"])
    assert "is not writable" in str(found["output"][0]["detail"])
    assert "-o FILE" in str(found["output"][0]["get"])


def test_a_full_disk(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LEAST_DISK", 2**60)
    assert "a whole table needs" in str(lines(capsys)["output"][0]["detail"])


@pytest.mark.parametrize(
    ("version", "status", "part"),
    [
        ("10.16.1.11", "ok", "10.16.1.11"),
        ("11.4.0.106", "missing", "for the tensorrt backend: tensorrt 11.4.0.106 is too new"),
        (None, "missing", "optional, for the tensorrt backend"),
    ],
)
def test_a_release_of_tensorrt_that_cannot_be_used_is_no_ok(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    version: str | None, status: str, part: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(doctor, "CHECKS", (doctor._extras,))
    monkeypatch.setattr(doctor, "OPTIONAL", {"tensorrt": doctor.OPTIONAL["tensorrt"]})
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: version)
    monkeypatch.setattr(doctor.importlib.metadata, "version", lambda name: version)
    (line,) = lines(capsys)["tensorrt"]
    assert line["status"] == status and part in str(line["detail"])
    assert line["get"] == (None if status == "ok" else "pip install 'tensorrt>=10,<11'")


def test_without_any_dense_backend_it_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "BUILT_IN", {"onednn": "no_such_module:Class"})
    found = lines(capsys, code=1)
    assert "none" in str(found["backends"][0]["detail"])
    problems = [str(line["detail"]) for line in found["backends"]]
    assert any("backend 'onednn' of built-in is broken" in text for text in problems)


def test_a_check_that_fails_is_a_line_itself(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def _sick():
        raise OSError("ill")
        yield

    monkeypatch.setattr(doctor, "CHECKS", (_sick,))
    assert lines(capsys)["sick"][0]["detail"] == "OSError: ill"

"""Every command of the README and the help of every command work as written."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from csbench import cli

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```console\n(.*?)```", README, flags=re.DOTALL)
LINES = [line.removeprefix("$ ") for block in BLOCKS for line in block.splitlines()]
# What these print needs minutes of measuring; --dry-run goes as far as the list of cases.
SLOW = ("infer", "run", "train-time")
# Tested where they belong: they compile or prune for longer than a README test should.
ELSEWHERE = ("backends test",)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([name, "--help"]) == 0
    assert "Usage: csbench" in capsys.readouterr().out


def test_readme_commands_run_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All in one folder and in order, as a reader types them, after one quick measurement."""
    monkeypatch.chdir(tmp_path)
    assert len(LINES) > 8
    assert cli.run(["run", "smoke"]) in (0, 5)
    for line in LINES:
        program, *arguments = shlex.split(line, comments=True)
        assert program == "csbench", line
        if line.removeprefix("csbench ").startswith(ELSEWHERE):
            continue
        if arguments[0] in SLOW:
            arguments.append("--dry-run")
        assert cli.run(arguments) == 0, line

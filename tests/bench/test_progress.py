"""What is said while measuring: plain lines with -v, nothing when quiet, a bar on a terminal."""

from __future__ import annotations

import io

import pytest

from csbench.bench.messages import Progress
from csbench.bench.progress import Reporter, outcome, title
from csbench.core.case import Case
from csbench.core.record import Measurement, Record

CASE = Case(
    model="resnet50", pattern="block:32x32", sparsity=0.875, backend="block-original",
    baseline="cudnn", device="cuda", dtype="fp16", batch=64,
)  # fmt: skip


def record(status: str = "ok", reason: str | None = None, timed: bool = True) -> Record:
    measured = Measurement(
        mode="graph", cache="warm", warmup=1, samples_ms=(2.0,) * 9, baseline_samples_ms=(5.0,) * 9
    )
    return Record(
        created="", key=CASE.key, case=CASE, status=status, reason=reason,  # type: ignore[arg-type]
        measurement=measured if timed else None,
    )  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def told(reporter: Reporter, stream: io.StringIO) -> str:
    with reporter.begin(1):
        reporter.started(CASE)
        reporter.progress(CASE, Progress("sampling", 0.5, 0.02))
        reporter.finished(record())
    return stream.getvalue()


def test_a_case_and_its_outcome_in_a_few_words() -> None:
    assert title(CASE) == "resnet50 block:32x32 87.5 % block-original fp16 batch 64"
    assert outcome(record()) == "2 ms, 2.50x (±0.0 %)"
    assert outcome(record("wrong", "off by 3", timed=False)) == "wrong: off by 3"
    assert outcome(record("noisy", "too few")).endswith("noisy: too few")


def test_off_a_terminal_there_is_a_line_a_case_only_when_asked_for() -> None:
    stream = io.StringIO()
    assert told(Reporter(stream=stream), stream) == ""
    said = told(Reporter(verbose=True, stream=stream), stream)
    assert said.startswith(f"[1/1] {title(CASE)}: 2 ms, 2.50x")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_quiet_is_quiet(stream: io.StringIO) -> None:
    reporter = Reporter(quiet=True, stream=stream)
    reporter.say("hello")
    assert told(reporter, stream) == ""


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    said = told(Reporter(stream=stream), stream)
    assert "0/1" in said and "1/1" in said and "━" in said


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    assert "\x1b[3" not in told(Reporter(stream=stream), stream)

"""Workers that crash, hang, chatter or are killed: that is one case's status, the rest goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from csbench.bench.messages import Settings
from csbench.bench.process import crashed_in
from csbench.bench.progress import Reporter
from csbench.bench.runner import Runner, choose
from csbench.core.axes import Sweep
from csbench.core.case import Case
from csbench.core.record import Record
from csbench.core.stop import StopRule
from csbench.errors import UsageError

HERE = Path(__file__).parent
TINY = f"{HERE / 'tiny.py'}:tiny"


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ceilings are measured once for all tests, and not left behind on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CSBENCH_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


def backend(name: str) -> str:
    return f"{HERE / 'misbehaving.py'}:{name}"


def case(name: str) -> Case:
    return Case(
        model=TINY, pattern="cs:4", sparsity=0.75, backend=backend(name), baseline="fake",
        device="cpu", input=(3, 8, 8),
    )  # fmt: skip


def quiet_runner(timeout: float = 120.0) -> Runner:
    settings = Settings(stop=StopRule(runs=2, warmup=0, timeout=timeout), rtol=1e-3, threads=1)
    return Runner(["cpu"], settings, Reporter(quiet=True))


def statuses(records: list[Record]) -> list[tuple[str, str]]:
    return [(r.case.backend.rpartition(":")[2], r.status) for r in records]


def test_a_case_that_kills_its_worker_is_a_status_and_the_next_case_is_measured() -> None:
    names = ("Chatters", "Crashes", "IsKilled", "Wrapped")
    with quiet_runner() as runner:
        records = list(runner.measure([case(name) for name in names]))
    assert [r.case.backend.rpartition(":")[2] for r in records] == list(names)
    chatted, crashed, killed, healthy = records
    assert crashed.status == "error"
    assert "SIGABRT" in (crashed.reason or "")
    assert "segmentation violation in kernel 7" in (crashed.reason or "")
    assert "in csbench/backends/base.py, line " in (crashed.reason or "")
    assert killed.status == "oom"
    assert "SIGKILL" in (killed.reason or "")
    for record in (chatted, healthy):  # two pairs are few: noisy, but measured
        assert record.status in ("ok", "noisy"), record.reason
        assert record.measurement is not None and len(record.measurement.samples_ms) == 2
    assert crashed.env["torch"] == healthy.env["torch"]  # known from the worker before it died


def test_a_crash_is_told_by_the_innermost_line_of_csbench_in_its_own_thread() -> None:
    head, root = "(most recent call first):\n", "/home/me/csbench"
    library = f'  File "{root}/.venv/lib/python3.12/site-packages/torch/nn.py", line 3 in f\n'
    mine = f'  File "{root}/csbench/backends/base.py", line 7 in lower\n'
    outer = f'  File "{root}/csbench/bench/infer.py", line 9 in measure\n'
    other = f'Thread 0x1 {head}  File "{root}/csbench/bench/worker.py", line 5 in listen\n'
    crashed = f"Current thread 0x2 {head}{library}{mine}{outer}"
    foreign = f"Current thread 0x3 {head}{library}"
    for dump in (crashed, f"{other}\n{crashed}", f"{crashed}\n{other}"):
        found = crashed_in(f" Segmentation fault\n\n{dump}\nExtension modules: numpy (total: 1)\n")
        assert found == " in csbench/backends/base.py, line 7"
    for dump in (foreign, f"{foreign}\n{other}", other, ""):
        assert crashed_in(f" Aborted\n\n{dump}") == ""


def test_a_hang_ends_at_the_time_limit_and_the_rest_goes_on() -> None:
    with quiet_runner(timeout=2.0) as runner:
        hung, healthy = runner.measure([case("Hangs"), case("IsMissing")])
    assert (hung.status, hung.measurement) == ("timeout", None)
    assert "--timeout" in (hung.reason or "")
    assert healthy.status == "unsupported"


def test_leaving_the_runner_ends_its_workers() -> None:
    with quiet_runner() as runner:
        runner.plan(Sweep(model=(TINY,), backend=("fake",), baseline=("fake",)))
        pid = runner._desks[0].worker._process.pid
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_what_a_worker_refuses_is_the_users_error() -> None:
    with quiet_runner() as runner:
        with pytest.raises(UsageError, match="unknown factory"):
            runner.plan(Sweep(model=(TINY + "y",)))
        assert runner.plan(Sweep(model=(TINY,), backend=("fake",)))  # it still answers
    nowhere = Runner(["cuda:77"], Settings(), Reporter(quiet=True))
    with nowhere as runner, pytest.raises(UsageError, match="cuda"):
        runner.plan(Sweep(model=(TINY,)))


def test_the_parent_never_loads_torch() -> None:
    code = (
        "import sys, csbench.bench.runner, csbench.cli.execute, csbench.core.suite; "
        "print({'torch', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_worker_that_died_while_idle_is_a_status_too() -> None:
    """Even where SIGPIPE would end the parent, as on the command line."""
    code = """if True:
        import signal
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        from tests.bench.test_runner import case, quiet_runner
        with quiet_runner() as runner:
            process = runner._desks[0].worker._process
            process.kill()
            process.wait()
            print([r.status for r in runner.measure([case("IsMissing"), case("IsMissing")])])
    """
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=HERE.parent.parent,
        check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "['oom', 'unsupported']", done.stderr


def test_several_workers_share_the_cases_and_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    settings = Settings(stop=StopRule(runs=2, warmup=0))
    wanted = [msgspec.structs.replace(case("IsMissing"), batch=n) for n in (1, 2, 3)]
    with Runner(["cpu", "cpu"], settings, Reporter(quiet=True)) as runner:
        records = list(runner.measure(wanted))
    assert sorted(r.case.batch for r in records) == [1, 2, 3]
    assert {r.env["workers"] for r in records} == {2}
    assert {r.env["threads"] for r in records} == {max(1, records[0].env["cores"] // 2)}


def test_threads_that_the_user_chose_are_not_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int | None] = []

    def start(device: str, threads: int | None) -> None:
        started.append(threads)
        raise InterruptedError

    monkeypatch.setattr("csbench.bench.runner.Worker", start)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    for threads in (None, 5):
        runner = Runner(["cpu", "cpu"], Settings(threads=threads), Reporter(quiet=True))
        with pytest.raises(InterruptedError):
            next(runner.measure([case("Any")]))
    assert started == [None, 5]  # None: the worker's torch reads the variable


def test_a_worker_does_not_outlive_its_parent() -> None:
    """The parent is killed outright; its worker sees its stdin end and leaves too."""
    code = (
        "import os, signal; from csbench.bench.process import Worker; "
        "worker = Worker('cpu'); list(worker.replies()); "
        "print(worker._process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    worker = int(done.stdout)
    status = Path(f"/proc/{worker}/status")
    if not status.parent.parent.is_dir():
        pytest.skip("no /proc here")
    descriptor = os.pidfd_open(worker) if status.exists() else None
    if descriptor is not None:  # readable as soon as the process has ended
        import select

        ready, _, _ = select.select([descriptor], [], [], 60)
        assert ready


def test_workers_keep_to_dense_networks_that_they_have_made() -> None:
    cases = [
        msgspec.structs.replace(case("Any"), dtype=dtype, sparsity=sparsity)
        for dtype in ("fp32", "fp16", "bf16")
        for sparsity in (0.5, 0.75)
    ]
    assert choose(cases, None, [None]) == 0
    assert choose(cases[1:], None, [cases[0]]) == 1  # the other's network is left to it
    assert choose(cases[1:], cases[2], [cases[0]]) == 1
    assert choose(cases[3:], cases[0], [cases[2]]) == 1  # its own is done: a new one
    assert choose(cases[5:], cases[0], [cases[4]]) == 0  # nothing is left but another's

"""Record files survive crashes, full disks, other writers and other people's JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from csbench.core.case import Case
from csbench.core.record import Measurement, Record
from csbench.core.store import Store, measured_keys, read
from csbench.errors import CsbenchError, RecordError, UsageError


def record(batch: int = 1, status: str = "ok") -> Record:
    case = Case(
        model="resnet50", pattern="block:32x32", sparsity=0.875, backend="block-original",
        baseline="onednn", device="cpu", batch=batch,
    )  # fmt: skip
    times = (1 / 3, 0.1 + 0.2)
    return Record(
        created="2026-11-22T12:00:00Z", key=case.key, case=case, status=status,  # type: ignore[arg-type]
        measurement=Measurement(mode="eager", cache="warm", warmup=3, samples_ms=times,
                                baseline_samples_ms=times),
    )  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new folder" / "records.jsonl"


def test_what_was_appended_is_read_back_bit_for_bit(path: Path) -> None:
    written = [record(1), record(2)]
    with Store(path) as store:
        for one in written:
            store.append(one)
    assert read(path) == written


def test_each_record_is_on_disk_before_the_next_is_measured(path: Path) -> None:
    store = Store(path)
    store.append(record(1))
    assert len(read(path)) == 1
    store.append(record(2))
    assert len(path.read_text().splitlines()) == 2


def test_resume_takes_only_keys_with_status_ok(path: Path) -> None:
    assert measured_keys(path) == frozenset()
    with Store(path) as store:
        for batch, status in enumerate(("ok", "noisy", "error", "timeout"), start=1):
            store.append(record(batch, status))
    assert measured_keys(path) == {record(1).key}


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_a_torn_last_line_is_left_out_then_set_aside(
    path: Path, cut: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with Store(path) as store:
        store.append(record(1))
        store.append(record(2))
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    torn = whole[first : first + cut]
    path.write_bytes(whole[:first] + torn)

    assert read(path) == [record(1)]
    assert "torn" in capsys.readouterr().err

    with Store(path) as store:
        store.append(record(3))
    assert read(path) == [record(1), record(3)]
    aside = path.with_name("records.jsonl.torn")
    assert aside.read_bytes() == torn + b"\n"
    assert str(aside) in capsys.readouterr().err


FOREIGN = {
    "a checkpoint": b'\x10\x00\x00\x00\x00\x00\x00\x00{"w": {"dtype": "F32"}}\n\x01\x02',
    "a setting": b'{\n  "a": 1\n}',
    "another tool's": b'{"name": "x", "ms": 1.5}\n',
    "one line": b'{"name": 1}',
    "text": b"hello\n",
    "torn, of another": b'{"name": "x',
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_file_of_something_else_is_left_as_it_is(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(UsageError, match="no file of csbench's records"):
        Store(path)
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"\n", b"{", b'{"schema":1,"crea', b"\0\0\0"])
def test_what_a_crash_left_at_the_beginning_is_no_other_file(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    Store(path).close()
    assert path.read_bytes().strip() == b""


def test_zeros_left_by_a_power_cut_are_a_torn_line(path: Path) -> None:
    with Store(path) as store:
        store.append(record(1))
    with path.open("ab") as file:
        file.write(b"\0" * 4096)
    with Store(path) as store:
        store.append(record(2))
    assert read(path) == [record(1), record(2)]


def test_a_whole_record_without_its_line_end_is_kept(path: Path) -> None:
    with Store(path) as store:
        store.append(record(1))
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    with Store(path) as store:
        store.append(record(2))
    assert read(path) == [record(1), record(2)]


def test_an_unknown_schema_is_refused_by_name(path: Path) -> None:
    path.parent.mkdir()
    newer = msgspec.to_builtins(record(1)) | {"schema": 7}
    path.write_text(json.dumps(newer) + "\n")
    with pytest.raises(RecordError, match=r"line 1: record schema 7 is unknown.*reads schema 1"):
        read(path)


def test_a_future_schema_of_another_shape_is_refused_by_name_too(path: Path) -> None:
    path.parent.mkdir()
    path.write_text('{"schema": 8, "run": {}}\n')
    with pytest.raises(RecordError, match="schema 8"):
        read(path)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"name": "bench", "mean": 1.5}', "not a csbench record"),
        ('{"schema": "v2"}', "not a csbench record"),
        ("[1, 2]", "not a csbench record"),
        ("hello", "not JSON"),
        ('{"schema": 1, "key": "x"}', "damaged"),
    ],
)
def test_foreign_lines_are_refused_with_their_number(path: Path, line: str, why: str) -> None:
    with Store(path) as store:
        store.append(record(1))
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(RecordError, match=rf"records\.jsonl, line 2: .*{why}"):
        read(path)


def test_a_missing_file_says_what_to_type(path: Path) -> None:
    with pytest.raises(RecordError, match="csbench infer"):
        read(path)


def test_a_folder_is_no_record_file(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="Is a directory"):
        read(tmp_path)
    with pytest.raises(UsageError, match=r"-o FILE"):
        Store(tmp_path)


def test_an_output_that_cannot_be_written_fails_before_measuring(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot write records to .*-o FILE"):
        Store(tmp_path / "file" / "records.jsonl")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    link = tmp_path / "records.jsonl"
    link.symlink_to("/dev/full")
    with Store(link) as store, pytest.raises(CsbenchError, match=r"No space left.*--resume"):
        store.append(record(1))


def test_a_half_written_line_is_taken_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes half a line and then is full: the file ends after the last whole record."""
    store = Store(path)
    store.append(record(1))
    real, calls = __import__("os").write, []

    def half_then_full(file: int, data: memoryview) -> int:
        calls.append(1)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return int(real(file, bytes(data)[: len(data) // 2]))

    monkeypatch.setattr("csbench.core.store.os.write", half_then_full)
    with pytest.raises(CsbenchError, match="earlier records are intact"):
        store.append(record(2))
    monkeypatch.undo()
    assert path.read_bytes().count(b"\n") == 1
    assert read(path) == [record(1)]


WRITER = """
import sys, msgspec
from csbench.core.record import Record
from csbench.core.store import Store
one = msgspec.json.decode(sys.stdin.buffer.read(), type=Record)
with Store(sys.argv[1]) as store:
    for _ in range(50):
        store.append(one)
"""


def test_two_processes_append_without_mixing_lines(path: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE)
        for _ in range(2)
    ]
    for batch, writer in enumerate(writers, start=1):
        assert writer.stdin is not None
        writer.stdin.write(msgspec.json.encode(record(batch)))
        writer.stdin.close()
    assert [writer.wait() for writer in writers] == [0, 0]
    batches = sorted(r.case.batch for r in read(path))
    assert batches == [1] * 50 + [2] * 50

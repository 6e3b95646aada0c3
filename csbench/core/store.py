"""Record files: JSON Lines, one record a line, appended and forced to disk as soon as it exists."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import msgspec

from csbench.core.record import SCHEMA, Record
from csbench.errors import CsbenchError, RecordError, UsageError

DEFAULT = Path("csbench-results/records.jsonl")

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Record)


class _Header(msgspec.Struct):
    """Enough of any line to say whose it is."""

    schema: int | None = None


def read(path: str | Path) -> list[Record]:
    """All records of a file, in order; raises RecordError naming the line that cannot be read.

    A last line torn by a crash is left out and said so on stderr; the next append sets it aside.
    """
    path = Path(path)
    body, torn = _split(_bytes_of(path))
    if torn:
        _say(f"{path}: the last line is torn and was left out ({len(torn)} bytes)")
    return [_record(path, number, line) for number, line in _lines(body)]


def measured_keys(path: str | Path) -> frozenset[str]:
    """Keys of the cases that a file already holds with status ok; none when there is no file."""
    if not Path(path).exists():
        return frozenset()
    return frozenset(record.key for record in read(path) if record.status == "ok")


class Store:
    """A record file open for appending; several processes may append to the same file.

    Opening fails at once, before anything is measured, where the file cannot be written or holds
    something else. `appended` counts the records that reached it.
    """

    appended = 0

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise UsageError(
                f"cannot write records to '{self.path}': {error.strerror}; "
                "name a file that can be written with -o FILE"
            ) from None
        try:
            with _Locked(self._file):
                self._set_torn_line_aside()
        except BaseException:
            self.close()
            raise

    def append(self, record: Record) -> None:
        """Write one line and force it to disk; on failure the file keeps its earlier lines."""
        line = _encoder.encode(record) + b"\n"
        with _Locked(self._file):
            before = os.fstat(self._file).st_size
            try:
                _write(self._file, line)
                _flush(self._file)
            except OSError as error:
                self._cut(before)
                raise CsbenchError(
                    f"cannot append to '{self.path}': {error.strerror}; the earlier records are "
                    "intact; make room, or name another file with -o, and type --resume"
                ) from None
        self.appended += 1

    def close(self) -> None:
        """Close the file; appending after that is an error."""
        os.close(self._file)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _set_torn_line_aside(self) -> None:
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            return
        content = self.path.read_bytes()
        if not _may_be_ours(content):
            raise UsageError(
                f"'{self.path}' is no file of csbench's records, and was left as it is; name "
                "another file with -o FILE"
            )
        body, torn = _split(content)
        if torn:
            aside = self.path.with_name(self.path.name + ".torn")
            with aside.open("ab") as file:
                file.write(torn + b"\n")
            self._cut(len(body))
            _say(f"{self.path}: the last line was torn by a crash; it was moved to {aside}")
        elif body and not body.endswith(b"\n"):
            _write(self._file, b"\n")  # a whole record that lost only its line end

    def _cut(self, size: int) -> None:
        try:
            os.ftruncate(self._file, size)
        except OSError:
            _say(f"{self.path}: the last line may be torn; the next run will set it aside")


class _Locked:
    """An exclusive lock on an open file for the length of a block."""

    def __init__(self, file: int) -> None:
        self._file = file

    def __enter__(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)


class _Line(NamedTuple):
    number: int
    text: bytes


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise RecordError(
            f"no record file '{path}'; measure first: csbench infer --model resnet50 "
            f"--pattern block -o {path}"
        ) from None
    except OSError as error:
        raise RecordError(f"cannot read records from '{path}': {error.strerror}") from None


def _split(content: bytes) -> tuple[bytes, bytes]:
    """The whole lines, and what a crash left after them: a last line that is no JSON."""
    end = content.rfind(b"\n") + 1
    last = content[end:]
    if not last.strip():
        return content[:end], b""
    try:
        msgspec.json.decode(last)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return content[:end], last
    return content, b""


def _may_be_ours(content: bytes) -> bool:
    """Whether a file is empty or begins with a record, be it one that a crash tore."""
    first = content.lstrip().partition(b"\n")[0].rstrip(b"\r").strip(b"\0")
    try:
        return not first or msgspec.json.decode(first, type=_Header).schema is not None
    except (msgspec.DecodeError, UnicodeDecodeError):
        start = _encoder.encode(_Header(SCHEMA))[:-1]  # {"schema":1
        return b"\n" not in content.strip() and first[: len(start)] == start[: len(first)]


def _lines(body: bytes) -> Iterator[_Line]:
    for number, line in enumerate(body.split(b"\n"), start=1):
        if line.strip():
            yield _Line(number, line)


def _record(path: Path, number: int, line: bytes) -> Record:
    try:
        return _checked(_decoder.decode(line))
    except (msgspec.DecodeError, UnicodeDecodeError, _UnknownSchemaError) as error:
        raise RecordError(f"{path}, line {number}: {_whose(line, error)}") from None


class _UnknownSchemaError(Exception):
    pass


def _checked(record: Record) -> Record:
    if record.schema != SCHEMA:
        raise _UnknownSchemaError
    return record


def _whose(line: bytes, error: Exception) -> str:
    """Why a line is no record of ours: no JSON, foreign JSON, another schema, or damaged."""
    try:
        schema = msgspec.json.decode(line, type=_Header).schema
    except msgspec.ValidationError:
        schema = None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "not JSON; expected one csbench record a line"
    if schema is None:
        return "JSON, but not a csbench record (it has no number under 'schema')"
    if schema != SCHEMA:
        return (
            f"record schema {schema} is unknown; this csbench reads schema {SCHEMA}: "
            "use the version that wrote it, or measure again"
        )
    return f"a damaged record: {error}"


def _write(file: int, data: bytes) -> None:
    """Write all of `data`: a nearly full disk takes only a part at first."""
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _flush(file: int) -> None:
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a pipe or a device has no disk
            raise


def _say(line: str) -> None:
    print(f"csbench: {line}", file=sys.stderr)

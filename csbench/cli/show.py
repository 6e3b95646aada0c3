"""csbench show: records, one line each or one whole."""

from __future__ import annotations

import string
from pathlib import Path
from typing import TYPE_CHECKING

import click

from csbench.errors import RecordError, UsageError

if TYPE_CHECKING:
    from csbench.core.record import Record


@click.command()
@click.argument("words", nargs=-1, metavar="[RECORDS] [KEY]")
@click.option("--json", "as_json", is_flag=True, help="The records as JSON, raw samples included.")
@click.option("-v", "--verbose", is_flag=True, expose_value=False, help="Show where an error is.")
def command(words: tuple[str, ...], as_json: bool) -> None:
    """Show records: one line each, or with a KEY one whole.

    RECORDS is a record file, csbench-results/records.jsonl if left out; KEY the beginning of a
    record's key, as the lines show it.

    \b
    Examples:
      csbench show
      csbench show reports/h200/table11.jsonl 3fa2
    """
    import msgspec

    from csbench.core.store import DEFAULT, read
    from csbench.report.show import listing, whole

    file, key = _file_and_key(words, DEFAULT)
    records = read(file)
    if not records and not as_json:
        raise UsageError(
            f"no records in {file}; measure first: csbench infer --model resnet50 --pattern block"
        )
    if key is None:
        shown = msgspec.json.encode(records).decode() if as_json else listing(records)
    else:
        record = _one(records, key, file)
        shown = msgspec.json.encode(record).decode() if as_json else whole(record)
    click.echo(shown)


def _file_and_key(words: tuple[str, ...], default: Path) -> tuple[Path, str | None]:
    if len(words) > 2:
        raise UsageError(f"{len(words)} arguments; expected csbench show [RECORDS] [KEY]")
    if len(words) == 2:
        return Path(words[0]), words[1]
    if not words:
        return default, None
    # A single word is a file where there is one of that name, else a key where it can be one.
    is_key = set(words[0]) <= set(string.hexdigits) and not Path(words[0]).exists()
    return (default, words[0]) if is_key else (Path(words[0]), None)


def _one(records: list[Record], key: str, file: Path) -> Record:
    """The last record whose key begins so; of several keys the user must choose."""
    found = {record.key: record for record in records if record.key.startswith(key.lower())}
    if not found:
        raise RecordError(f"no record '{key}' in {file}; csbench show {file} lists the keys")
    if len(found) > 1:
        raise RecordError(f"'{key}' begins {len(found)} keys: {', '.join(found)}; type more of it")
    return next(iter(found.values()))

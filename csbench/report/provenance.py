"""Where the numbers of a report come from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import msgspec

from csbench import __version__
from csbench.core.record import Record
from csbench.report.rows import device_names
from csbench.report.table import Provenance


def provenance(records: Sequence[Record]) -> Provenance:
    """Devices, drivers, versions and dates of the records, and their hash as JSON Lines.

    For records read from one file that hash is the file's own: `sha256sum` gives the same.
    """
    digest = hashlib.sha256()
    for record in records:
        digest.update(msgspec.json.encode(record) + b"\n")
    dates = sorted({record.created[:10] for record in records})
    return Provenance(
        records_sha256=digest.hexdigest(),
        csbench=_listed(_version(record) for record in records) or __version__,
        device=_listed(device_names(records).values()),
        driver=_listed(record.env.get("driver") for record in records),
        date=" to ".join(dict.fromkeys([dates[0], dates[-1]])) if dates else "",
    )


def _version(record: Record) -> str:
    commit = record.env.get("commit")
    return f"{record.env.get('csbench', __version__)}{f' ({commit})' if commit else ''}"


def _listed(values: Iterable[object]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value))

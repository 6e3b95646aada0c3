"""Where the numbers of a report come from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import msgspec

from csbench import __version__
from csbench.core.record import Record
from csbench.report.rows import Row
from csbench.report.table import Provenance


class Source:
    """The records of a report: every table says their hash, and where its own rows were measured.

    For records read from one file the hash is the file's own: `sha256sum` gives the same.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        digest = hashlib.sha256()
        for record in records:
            digest.update(msgspec.json.encode(record) + b"\n")
        self.sha256 = digest.hexdigest()

    def of(self, rows: Sequence[Row]) -> Provenance:
        """Devices, drivers, versions and dates of a table's rows."""
        dates = sorted({row.record.created[:10] for row in rows})
        return Provenance(
            records_sha256=self.sha256,
            csbench=_listed(_version(row.record) for row in rows) or __version__,
            device=_listed(
                _cards(device, rows) for device in dict.fromkeys(r.device for r in rows)
            ),
            driver=_listed(row.record.env.get("driver") for row in rows),
            date=" to ".join(dict.fromkeys([dates[0], dates[-1]])) if dates else "",
        )


def _cards(device: str, rows: Sequence[Row]) -> str:
    """A device, and of how many cards of it the rows are: some ratios may be across them."""
    cards = {row.record.env.get("gpu_id") for row in rows if row.device == device} - {None}
    return f"{device} ({len(cards)} cards)" if len(cards) > 1 else device


def _version(record: Record) -> str:
    commit = record.env.get("commit")
    return f"{record.env.get('csbench', __version__)}{f' ({commit})' if commit else ''}"


def _listed(values: Iterable[object]) -> str:
    return "; ".join(dict.fromkeys(str(value) for value in values if value))

"""The paragraph on CS over N:M: what it says follows from the records."""

from __future__ import annotations

from msgspec import structs

from csbench.core.record import Record
from csbench.core.training import TrainingReport
from csbench.report.rows import rows
from csbench.report.tables.agreement import agreement
from csbench.report.trained import trained
from tests.report.made import probe

HOURS = {"nm": 65.37, "cs": 65.23}


def paragraph(*records: Record) -> str:
    found = trained(rows(records))
    said = agreement(found[-1], found, HOURS)
    assert said is not None
    return said


def ahead(record: Record, milliseconds: float) -> Record:
    report = record.training
    assert isinstance(report, TrainingReport)
    phases = tuple(
        structs.replace(p, split=p.split | {"ahead": (milliseconds,)}) for p in report.phases
    )
    return structs.replace(record, training=structs.replace(report, phases=phases))


def test_hours_within_a_per_cent_agree_and_others_do_not() -> None:
    cs = probe("cs", "cs:2", 104.0)
    assert "0.1 % apart, they agree" in paragraph(probe("nm", "nm:2:4", 104.1), cs)
    assert "6.0 % apart, they do not agree" in paragraph(probe("nm", "nm:2:4", 111.0), cs)


def test_the_authors_code_is_set_against_the_fused_one() -> None:
    nm, theirs = probe("nm", "nm:2:4", 101.0), probe("nm-argsort", "nm:2:4", 116.0)
    said = paragraph(nm, theirs, probe("cs", "cs:2", 100.5))
    assert "takes 16.0 % longer than a dense one, with masks and regulariser fused 1.0 %" in said


def test_a_gpu_that_waits_for_the_host_is_said() -> None:
    nm, cs = probe("nm", "nm:2:4", 104.0), probe("cs", "cs:2", 104.0)
    assert "launching the kernels takes the time" in paragraph(nm, ahead(cs, 1.0))
    assert "launching" not in paragraph(nm, ahead(cs, 90.0))
    assert "launching" not in paragraph(nm, cs)  # on a CPU


def test_without_nm_beside_it_there_is_nothing_to_say() -> None:
    two_ranks = probe("nm", "nm:2:4", 104.0, ranks=2)
    found = trained(rows([two_ranks, probe("cs", "cs:2", 104.0)]))
    assert agreement(found[1], found, HOURS) is None

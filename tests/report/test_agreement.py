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


def on_a_slower_machine(record: Record, by: float) -> Record:
    """The same probe where every step, dense ones too, takes `by` times as long."""
    report, measured = record.training, record.measurement
    assert isinstance(report, TrainingReport) and measured is not None

    def longer(samples: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(by * sample for sample in samples)

    phases = tuple(
        structs.replace(
            p, samples_ms=longer(p.samples_ms), dense_samples_ms=longer(p.dense_samples_ms)
        )
        for p in report.phases
    )
    return structs.replace(record, training=structs.replace(report, phases=phases))


def test_what_the_machine_changed_between_two_runs_is_not_laid_on_the_scheme() -> None:
    nm, cs = probe("nm", "nm:2:4", 104.0), on_a_slower_machine(probe("cs", "cs:2", 104.0), 1.1)
    said = paragraph(nm, cs)
    assert "10.1 % apart, but not told apart" in said and "do not agree" not in said
    assert "100.0 ms beside N:M and 110.0 ms beside CS" in said
    # A difference that dense steps in turn show as well is one of the schemes.
    slower = on_a_slower_machine(probe("cs", "cs:2", 114.0), 1.1)
    assert "they do not agree" in paragraph(nm, slower)


def test_hours_of_another_network_are_not_held_against_the_published_ones() -> None:
    nm, cs = (
        structs.replace(made, case=structs.replace(made.case, model="resnet20"))
        for made in (probe("nm", "nm:2:4", 111.0), probe("cs", "cs:2", 104.0))
    )
    said = paragraph(nm, cs)
    assert "is of ResNet50 on ImageNet, not of this" in said
    assert "agree" not in said


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

"""What is derived from records: speed-ups against three references, repeats, device names."""

from __future__ import annotations

import msgspec
import pytest

from csbench.core.record import Record
from csbench.report.frame import frame
from csbench.report.rows import Estimate, Row, latest, ratio, rows
from tests.report.made import CPU, GPU, block_records, record, samples


def row(*records: Record) -> Row:
    """The row of the last record."""
    return rows(records)[-1]


def test_speedup_is_of_the_pairs() -> None:
    made = row(record(ms=1.0, baseline_ms=2.0)).speedup
    assert made is not None
    assert made.low is not None and made.high is not None
    assert made.value == pytest.approx(2.0, rel=5e-3)
    assert made.low < made.value < made.high


def test_own_zero_is_of_the_same_backend_precision_batch_and_device() -> None:
    fast = record(0.75, 1.0)
    others = [
        record(0.0, 8.0, backend="block-cutlass"),
        record(0.0, 8.0, dtype="fp16"),
        record(0.0, 8.0, batch=2),
        record(0.0, 8.0, env={**GPU, "gpu": "another"}),
        record(0.5, 8.0),
    ]
    assert row(*others, fast).over_own is None
    own = row(*others, record(0.0, 4.0), fast).over_own
    assert own is not None
    assert own.value == pytest.approx(4.0, rel=5e-3)


def test_own_zero_row_is_one_by_definition() -> None:
    assert row(record(0.0, 4.0)).over_own == Estimate(1.0)


def test_a_dense_pattern_serves_as_own_zero_row() -> None:
    own = row(record(0.0, 4.0, pattern="dense"), record(0.75, 1.0)).over_own
    assert own is not None
    assert own.value == pytest.approx(4.0, rel=5e-3)


def test_best_dense_is_of_any_precision() -> None:
    half = record(0.5, 0.7, 1.0, dtype="fp16")
    made = row(half, record(0.5, 1.0, 2.0))
    assert made.best_dense == "cudnn fp16"
    assert made.over_best is not None and made.over_best.low is not None
    assert made.over_best.value == pytest.approx(1.0, rel=5e-3)
    assert made.over_best.low < made.over_best.value


def test_best_dense_that_is_the_baseline_keeps_the_paired_interval() -> None:
    made = row(record())
    assert made.over_best == made.speedup is not None


def test_best_dense_said_by_the_record_counts() -> None:
    plain = record()
    assert plain.measurement is not None
    measured = msgspec.structs.replace(
        plain.measurement, dense_best_ms=0.5, dense_best="cudnn tf32"
    )
    made = row(msgspec.structs.replace(plain, measurement=measured))
    assert made.best_dense == "cudnn tf32"
    assert made.over_best is not None
    assert made.over_best.value == pytest.approx(0.5, rel=5e-3)


def test_every_way_beside_the_baseline_counts_in_its_precision() -> None:
    ways = {"cudnn fp32": 2.0, "cs-dense fp32": 1.2, "cudnn fp16": 0.5}
    made = row(record(0.5, 1.0, 2.0, dense=ways))
    assert (made.best_dense_same, made.best_dense) == ("cs-dense fp32", "cudnn fp16")
    assert made.over_best_same is not None and made.over_best is not None
    assert made.over_best_same.value == pytest.approx(1.2, rel=5e-3)
    assert made.over_best.value == pytest.approx(0.5, rel=5e-3)
    assert made.over_best_same.low is not None
    assert [way.name for way in made.dense] == ["cudnn fp16", "cs-dense fp32", "cudnn fp32"]


@pytest.mark.parametrize(
    ("dense", "name"),
    [
        ({"pattern": "dense", "backend": "inductor"}, "inductor fp32"),
        ({"backend": "block-cutlass"}, "block-cutlass fp32 at 0 %"),
    ],
)
def test_a_row_of_a_dense_network_is_a_dense_way_for_the_others(
    dense: dict[str, str], name: str
) -> None:
    made = rows([record(0.0, 1.5, 2.0, **dense), record(0.5, 1.0, 2.0)])
    assert made[1].best_dense == made[1].best_dense_same == name
    assert made[1].over_best is not None
    assert made[1].over_best.value == pytest.approx(1.5, rel=5e-3)
    assert made[0].over_best == Estimate(1.0)
    other = rows([record(0.0, 1.5, 2.0, batch=8, **dense), record(0.5, 1.0, 2.0)])
    assert other[1].best_dense == "cudnn fp32"


@pytest.mark.parametrize("status", ["invalid", "wrong", "oom", "timeout", "unsupported", "error"])
def test_a_row_that_does_not_count_carries_no_time_and_serves_nobody(status: str) -> None:
    bad = record(0.0, 0.1, 0.1, status=status)
    made = rows([bad, record(0.5, 1.0, 2.0)])
    assert made[0] == Row(bad, made[0].device)
    assert made[1].over_own is None
    assert made[1].best_dense == "cudnn fp32"
    assert made[1].over_best is not None
    assert made[1].over_best.value == pytest.approx(2.0, rel=5e-3)


def test_of_one_case_the_last_sound_record_counts() -> None:
    first, second = record(ms=1.0), record(ms=1.5)
    failed = record(status="oom")
    assert latest([first, second, failed]) == [second]
    assert latest([failed, first]) == [first]
    assert latest([failed, record(status="timeout")])[0].status == "timeout"
    assert len(rows([first, second, failed])) == 1


def test_devices_are_named_and_a_case_that_died_early_takes_the_name_of_its_device() -> None:
    died = record(0.75, status="timeout", env={"cpu": "Test CPU"})
    assert [r.device for r in rows([record(), died])] == ["Test GPU 80GB", "Test GPU 80GB"]
    assert row(record(device="cpu", env=CPU)).device == "Test CPU, 2 threads"
    assert row(died).device == "cuda"


def test_ratio_adds_both_uncertainties() -> None:
    alone = ratio(Estimate(2.0), Estimate(1.0, 0.9, 1.1))
    both = ratio(Estimate(2.0, 1.8, 2.2), Estimate(1.0, 0.9, 1.1))
    assert alone.value == both.value == 2.0
    assert None not in (alone.low, alone.high, both.low, both.high)
    assert both.low < alone.low < 2.0 < alone.high < both.high  # type: ignore[operator]


def test_ratio_of_a_time_with_itself_contains_one() -> None:
    time = Estimate(*(min(samples(1.0)), 0.999, 1.001))
    made = ratio(time, time)
    assert made.low is not None and made.high is not None
    assert made.low < 1 < made.high


def test_layers_and_weights_are_counted() -> None:
    made = row(block_records()[0])
    assert made.sparse_layers == (1, 2)
    assert made.weight_bytes == 2**24 + 37632


def test_a_frame_has_what_finding_the_masks_took_apart_from_preparing() -> None:
    found = frame([msgspec.structs.replace(record(0.75), mask_ms=800.0), record(0.875)])
    assert found["mask_ms"].tolist()[0] == 800.0
    assert found["mask_ms"].isna().tolist() == [False, True]
    assert found["prepare_ms"].tolist() == [12.5, 12.5]

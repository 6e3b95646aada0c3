"""Which tables a report holds, what it says when there is nothing, and how cells judge a row."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import msgspec
import pytest

from csbench.core.case import CheckpointRef
from csbench.core.record import LayerReport, Record
from csbench.errors import UsageError
from csbench.report import TABLE_NAMES
from csbench.report.document import render, tables
from csbench.report.frame import frame
from csbench.report.table import Cell, Table
from csbench.report.tables import TABLES
from tests.report.made import (
    GPU,
    block_records,
    everything,
    layer_records,
    pattern_records,
    record,
    training_records,
)


def names(records: list[Record]) -> list[str]:
    return [table.name for table in tables(records)]


def cells(table: Table, key: str) -> list[Cell]:
    position = [column.key for column in table.columns].index(key)
    return [row[position] for row in table.rows]


def test_a_report_holds_what_the_records_have_data_for() -> None:
    assert names(block_records()) == ["table11", "inference"]
    assert names(pattern_records()) == ["comparison", "comparison", "inference"]
    assert names(layer_records()) == ["layers"]
    trained = ["training-hours", "table10", "scaling", "accuracy"]
    assert names(training_records()) == trained
    assert set(names(everything())) == set(TABLES) == set(TABLE_NAMES)


def test_labels_are_unique_and_plain_where_there_is_one() -> None:
    labels = [table.label for table in tables(everything())]
    assert labels[:3] == ["table11", "comparison-1", "comparison-2"]


@pytest.mark.parametrize("split", [{"batch": 8}, {"dtype": "fp16"}, {"pattern": "block:16x16"}])
def test_table11_is_split_by_what_it_must_not_mix(split: dict[str, object]) -> None:
    made = tables([record(), record(**split)], "table11")  # type: ignore[arg-type]
    assert len(made) == 2
    assert len({table.caption for table in made}) == 2


def test_table11_takes_neither_another_model_nor_another_pattern() -> None:
    with pytest.raises(UsageError, match=r"nothing for table 'table11'.*csbench infer"):
        tables([record(model="resnet18"), record(pattern="cs", backend="cs")], "table11")


def test_table11_without_a_row_at_zero_comes_by_name_only() -> None:
    sparse = [record(0.5), record(0.75, 0.8)]
    assert names(sparse) == ["inference"]
    assert [made.name for made in tables(sparse, "table11")] == ["table11"]
    assert names([record(0.0), *sparse]) == ["table11", "inference"]
    other = [record(0.0, batch=8), record(0.5, batch=8)]
    assert names([*other, *sparse]) == ["table11", "inference"]


def test_layers_that_ran_sparse_at_zero_are_explained() -> None:
    (made,) = tables([record(0.0), record(0.5)], "table11")
    zero, half = cells(made, "block_original_sparse_layers")[:2]
    assert zero.value == half.value == "1/2"
    assert "at 0 % the sparse kernels ran with every weight kept" in str(zero.note)
    assert "every weight kept" not in str(half.note)


def test_table11_holds_sparsities_that_were_not_published() -> None:
    (made,) = tables([record(0.6)], "table11")
    assert [cell.value for cell in cells(made, "sparsity_layers_percent")] == [
        0, 50, 60, 75, 87.5, 93.75,
    ]  # fmt: skip
    assert cells(made, "block_original_published_ms")[2].value is None
    assert any("block-cutlass: no record of it" in note for note in made.notes)


def test_a_checkpoint_near_a_published_sparsity_stands_beside_it() -> None:
    (made,) = tables([record(0.7498)], "table11")
    assert len(made.rows) == 5
    assert cells(made, "sparsity_layers_percent")[2].value == pytest.approx(74.98)
    assert cells(made, "block_original_published_ms")[2].value == 2.07
    assert cells(made, "block_original_ms")[2].number is not None


def test_two_checkpoints_of_one_sparsity_take_a_line_each() -> None:
    files = [CheckpointRef(path=f"{name}.pth", sha256=name * 64) for name in "ab"]
    (made,) = tables([record(0.75, checkpoint=file) for file in files], "table11")
    assert [cell.value for cell in cells(made, "block_original_published_ms")].count(2.07) == 2


def test_a_pattern_whose_parameters_follow_the_sparsity_is_one_pattern() -> None:
    made = tables([record(0.5, pattern="cs:2"), record(0.75, pattern="cs:4")], "inference")
    assert [group.title for group in made[0].groups] == [""]


def test_a_sound_time_with_something_to_say_gets_a_footnote() -> None:
    (made,) = tables([record(reason="capture failed: timed eagerly")], "inference")
    (time,) = cells(made, "time_ms")
    assert (time.code, time.note) == (None, "capture failed: timed eagerly")
    bound = record(task="layer", layer="a", env={**GPU, "launch_bound": True})
    assert "launch-bound" in render([bound], table="layers")


@pytest.mark.parametrize(("share", "said"), [(0.5, False), (0.81, True)])
def test_a_time_of_a_gpu_at_its_power_limit_says_so(share: float, said: bool) -> None:
    env = {**GPU, "gpu_during": {"power_capped": share}}
    for status in ("ok", "noisy"):
        (made,) = tables([record(status=status, env=env)], "inference")
        (time,) = cells(made, "time_ms")
        assert ("at its power limit for more than half" in str(time.note)) is said


@pytest.mark.parametrize(("alone_ms", "said"), [(2.0, False), (1.9, True)])
def test_a_baseline_that_a_kernel_slows_down_is_told(alone_ms: float, said: bool) -> None:
    (made,) = tables([record(baseline_ms=2.0, dense={"cudnn fp32": alone_ms})], "inference")
    (time,) = cells(made, "time_ms")
    assert ("its baseline took 5." in str(time.note)) is said


@pytest.mark.parametrize("name", ["table11", "comparison", "inference"])
def test_gpus_that_measured_side_by_side_are_counted(name: str) -> None:
    def notes(*workers: int) -> list[str]:
        patterns = ("block:32x32", "cs:2", "nm:1:2")
        made = [
            record(pattern=pattern, env={**GPU, "workers": count} if count > 1 else GPU)
            for pattern, count in zip(patterns, workers, strict=False)
        ]
        (table,) = tables(made, name)
        return [note for note in table.notes if "at once" in note]

    assert notes(1, 1) == []
    (all_of_them,) = notes(2, 2)
    assert all_of_them.startswith("2 GPUs of one host measured at once: they share")
    if name != "table11":  # which takes one of the rows
        (some,) = notes(1, 2, 3)
        assert some.startswith("2 to 3 GPUs of one host measured at once for 2 rows: ")


@pytest.mark.parametrize("name", ["inference", "comparison"])
def test_energy_is_a_column_where_every_time_has_it(name: str) -> None:
    metered = {**GPU, "joules_per_image": {"sparse": 0.0261, "baseline": 0.13}}

    def energy(*records: Record) -> tuple[bool, list[float | str | None]]:
        (made,) = tables([*records, record(0.5, pattern="nm:1:2", env=metered)], name)
        shown = next(c.shown for c in made.columns if c.key == "energy_mj_per_image")
        assert shown is any("Energy is the GPU's own counter" in note for note in made.notes)
        return shown, [cell.value for cell in cells(made, "energy_mj_per_image")]

    block, cs = record(0.5, env=metered), record(0.5, pattern="cs:2", backend="cs")
    failed = record(0.5, pattern="cs:2", backend="cs", status="oom")
    assert energy(block) == (True, pytest.approx([26.1, 26.1]))
    assert energy(block, failed)[0]
    assert not energy(block, cs)[0]


def test_a_cpu_is_not_comparable_with_the_published_gpu() -> None:
    (made,) = tables([record(device="cpu", env={"cpu": "C", "threads": 2})], "table11")
    assert any("not comparable; device differs" in note for note in made.notes)


@pytest.mark.parametrize(
    ("status", "code"),
    [("oom", "OOM"), ("wrong", "WRONG"), ("timeout", "TIMEOUT"), ("invalid", "INVALID"),
     ("unsupported", "UNSUPPORTED"), ("error", "ERROR")],
)  # fmt: skip
def test_a_failure_shows_its_code_with_the_reason_and_no_speedup(status: str, code: str) -> None:
    (made,) = tables([record(status=status, reason="because")], "inference")
    (time,) = cells(made, "time_ms")
    assert (time.code, time.note, time.number) == (code, f"{code}: because", None)
    for key in ("speedup", "speedup_over_own", "speedup_over_best_same", "speedup_over_best"):
        assert cells(made, key)[0] == Cell()


def test_a_noisy_row_is_shown_marked_and_never_bold() -> None:
    good = record(0.5, 1.5, backend="block-cutlass")
    (made,) = tables([record(0.5, 1.0, status="noisy"), good], "inference")
    best = dict(zip([c.value for c in cells(made, "backend")], cells(made, "speedup"), strict=True))
    assert best["block-original"].number == pytest.approx(2.0, rel=5e-3)
    assert best["block-original"].code == "NOISY"
    assert not any(cell.tied for cell in cells(made, "time_ms"))
    assert "NOISY: " in render([record(status="noisy")], table="inference")


def test_a_failed_row_between_them_does_not_keep_two_backends_from_being_compared() -> None:
    failed = msgspec.structs.replace(record(0.5, backend="b", status="oom"), sparsity=None)
    made = [record(0.5, 1.0, backend="a"), failed, record(0.5, 1.5, backend="c")]
    (table,) = tables(made, "inference")
    assert [cell.tied for cell in cells(table, "time_ms")] == [True, False, False]


def test_a_row_in_which_nothing_ran_sparse_is_not_called_sparse() -> None:
    dense = (LayerReport(name="fc", ran="dense", reason="too small"),)
    (made,) = tables([record(layers=dense)], "inference")
    (pattern,) = cells(made, "pattern")
    assert pattern.value == "dense"
    assert pattern.note == "block:32x32 was asked for, but no layer ran sparse: too small"
    silent = (LayerReport(name="conv", ran="dense"), LayerReport(name="conv2", ran="dense"))
    (made,) = tables([record(layers=(*dense, *silent))], "inference")
    (pattern,) = cells(made, "pattern")
    assert "block-original multiplies zeros like any number; too small" in str(pattern.note)


def test_a_table_without_times_explains_no_intervals() -> None:
    assert "95 % bootstrap" in render([record()], table="inference")
    assert "95 %" not in render([record(status="unsupported")], table="inference")


def test_both_sparsities_are_stated() -> None:
    (made,) = tables([record(0.5)], "inference")
    assert cells(made, "sparsity_layers_percent")[0].value == 50
    assert cells(made, "sparsity_model_percent")[0].value == pytest.approx(45)


def test_checkpoints_are_named_where_there_are_any() -> None:
    file = CheckpointRef(path="/elsewhere/mine.pth", sha256="ab" * 32)
    document = render([record(checkpoint=file)], table="inference")
    assert "mine.pth" in document and "/elsewhere" not in document
    assert "Weights " not in render([record()], table="inference").replace("Weights  ", "")


def test_rows_of_one_group_are_titled_once() -> None:
    (made,) = tables([record(batch=1), record(batch=8)], "inference")
    assert [group.title for group in made.groups] == ["batch 1, fp32", "batch 8, fp32"]
    (made,) = tables([record(batch=1)], "inference")
    assert [group.title for group in made.groups] == [""] and "batch 1, fp32" in made.caption


def test_repeats_are_said() -> None:
    assert "1 record repeats a case" in render([record(), record()])
    assert "2 records repeat a case" in render([record(), record(), record()])
    assert "repeats a case" not in render([record()])


def test_the_hash_is_that_of_the_file() -> None:
    file = b"".join(msgspec.json.encode(one) + b"\n" for one in everything())
    assert hashlib.sha256(file).hexdigest() in render(everything())


def test_nothing_to_report_is_told_with_what_to_type() -> None:
    with pytest.raises(UsageError, match=r"no records.*type: csbench infer"):
        render([])
    with pytest.raises(UsageError, match=r"1 records have nothing for table 'layers'.*--per-layer"):
        render([record()], table="layers")
    with pytest.raises(UsageError, match="unknown table 'table12'; did you mean table11"):
        render([record()], table="table12")
    with pytest.raises(UsageError, match="unknown format 'latec'; did you mean latex"):
        render([record()], format="latec")  # type: ignore[arg-type]


def test_the_frame_has_a_row_a_case_and_units_in_its_names() -> None:
    made = frame(everything())
    assert len(made) == len(everything())
    assert {"time_ms", "speedup_low", "speedup_over_own", "weight_bytes"} <= set(made.columns)
    assert made[made.status == "oom"].time_ms.isna().all()


def test_a_report_imports_neither_torch_nor_pandas() -> None:
    code = (
        "import sys; from tests.report.made import everything; "
        "from csbench.report.document import render; "
        "render(everything()); render(everything(), format='html'); "
        "sys.exit(bool({'torch', 'pandas'} & set(sys.modules)))"
    )
    # The root of the tests is on the path, for `made`.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_a_table_says_how_many_cards_of_a_gpu_it_is_of() -> None:
    for cards, said in ((("a", "a"), "NVIDIA H200"), (("a", "b"), "NVIDIA H200 (2 cards)")):
        made = [
            record(sparsity, env={**GPU, "gpu": "NVIDIA H200", "gpu_id": card})
            for sparsity, card in zip((0.5, 0.75), cards, strict=True)
        ]
        assert tables(made, "inference")[0].provenance.device == said


def test_rows_whose_interval_is_too_wide_share_a_note() -> None:
    rows = [
        record(
            status="noisy", backend=backend,
            reason=f"interval ±{width} % after 9 pairs, asked for 1 %",
        )
        for backend, width in (("cs", 2.4), ("csr", 3.1))
    ]  # fmt: skip
    text = render(rows, table="inference")
    assert text.count("its interval is wider than the 1 % asked for") == 1
    assert "after 9 pairs" not in text


def test_schemes_that_are_not_told_from_dense_share_a_note() -> None:
    rows = [
        record(
            status="noisy", backend=backend,
            reason=f"the time over dense in {phases} is not known within 2 % after {pairs} pairs; "
            "give it longer: --max-time",
        )
        for backend, phases, pairs in (
            ("cs", "SR-STE", 39), ("csr", "dense and pruning and fixed mask", 45),
            ("nm", "dense", 9),
        )
    ]  # fmt: skip
    text = render(rows, table="inference")
    assert text.count("its time over dense is not known within 2 %; give it longer") == 1
    assert text.count("its time over dense is not known within 2 % after 9 pairs; give") == 1

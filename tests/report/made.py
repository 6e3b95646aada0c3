"""Records made up by rule, the same on every machine: what the golden tables are rendered from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from csbench.core.case import Case, CheckpointRef
from csbench.core.record import Check, LayerReport, Measurement, Record, Sparsity
from csbench.core.training import (
    EpochReport,
    EventReport,
    Flops,
    HeldOut,
    PhaseReport,
    Recipe,
    TrainingReport,
    TrainSettings,
)
from csbench.report import TABLE_NAMES
from csbench.report.document import render

GPU = {"csbench": "1.2.3", "gpu": "Test GPU 80GB", "driver": "570.1", "cpu": "Test CPU"}
CPU = {"csbench": "1.2.3", "cpu": "Test CPU", "threads": 2}
SPARSITIES = (0.0, 0.5, 0.75, 0.875, 0.9375)
BLOCK_MS = {
    "block-cutlass": (2.30, 1.30, 0.80, 0.52, 0.41),
    "block-original": (3.40, 1.90, 0.81, 0.70, 0.50),
}
STEM = LayerReport(name="conv1", ran="dense", reason="Cin = 3 is not a multiple of 32", bytes=37632)


def samples(
    middle: float, spread: float = 0.004, count: int = 40, phase: int = 0
) -> tuple[float, ...]:
    """Times around a median, spread by a rule that gives the same bits everywhere."""
    return tuple(
        middle * (1 + spread * ((37 * i + 11 * phase) % 41 - 20) / 20) for i in range(count)
    )


def record(
    sparsity: float = 0.5,
    ms: float = 1.0,
    baseline_ms: float = 2.0,
    *,
    status: Any = "ok",
    reason: str | None = None,
    spread: float = 0.004,
    copies: int = 1,
    layers: tuple[LayerReport, ...] | None = None,
    dense: dict[str, float] | None = None,
    left_out: dict[str, str] | None = None,
    env: dict[str, Any] = GPU,
    **case: Any,
) -> Record:
    """One record; `case` overrides a block-sparse ResNet50 on a GPU, `dense` are ways beside it."""
    given = {
        "model": "resnet50",
        "pattern": "block:32x32",
        "backend": "block-original",
        "baseline": "cudnn",
        "device": "cuda",
        "checkpoint": CheckpointRef(seed=0),
    } | case
    what = Case(sparsity=sparsity, **given)
    ran = LayerReport(
        name=what.layer or "layer1.0.conv1",
        ran="sparse",
        bytes=int((1 - sparsity) * 2**24),
        flops=2_000_000,
        algorithm="tile 64x32",
        floor_ms=ms / 2,
    )
    measured = status in ("ok", "noisy", "invalid")
    return Record(
        created="2026-01-02T03:04:05+00:00",
        key=what.key,
        case=what,
        status=status,
        reason=reason,
        measurement=Measurement(
            mode="graph",
            cache="warm",
            warmup=5,
            samples_ms=samples(ms, spread),
            baseline_samples_ms=samples(baseline_ms, spread, phase=1),
            copies=copies,
            dense_samples_ms={
                name: samples(each, count=10, phase=2) for name, each in (dense or {}).items()
            },
            dense_left_out=left_out or {},
        )
        if measured
        else None,
        check=Check(0.3 if status == "wrong" else 2.5e-7 * (1 + sparsity), 1e-5)
        if measured or status == "wrong"
        else None,
        layers=((STEM, ran) if what.layer is None else (ran,)) if layers is None else layers,
        sparsity=Sparsity(layers=sparsity, model=0.9 * sparsity),
        prepare_ms=12.5,
        peak_bytes=2**28,
        env=env,
    )


def block_records() -> list[Record]:
    """Both versions of Table 11 on a GPU; block-cutlass fails at two sparsities, one is noisy."""
    faults: dict[tuple[str, float], dict[str, Any]] = {
        ("block-cutlass", 0.875): {"status": "oom", "reason": "needs 90 GiB, has 80 GiB"},
        ("block-cutlass", 0.9375): {"status": "wrong", "reason": "relative error 0.3 > 1e-5"},
        ("block-original", 0.9375): {
            "status": "noisy", "reason": "half-width 3.1 % > 1 % after 60 s", "spread": 0.2,
        },
    }  # fmt: skip
    return [
        record(sparsity, ms, 2.1, backend=backend, **faults.get((backend, sparsity), {}))
        for backend, times in BLOCK_MS.items()
        for sparsity, ms in zip(SPARSITIES, times, strict=True)
    ]


def pattern_records() -> list[Record]:
    """Three patterns on a CPU at two sparsities, batches and precisions; csr is not there."""
    found = []
    for batch, dtype, baseline_ms in ((1, "fp32", 40.0), (8, "bf16", 150.0)):
        for sparsity, gain in ((0.5, 1.2), (0.75, 2.2)):
            shared: dict[str, Any] = {
                "batch": batch, "dtype": dtype, "device": "cpu", "baseline": "onednn", "env": CPU,
                "copies": 8 if batch == 1 else 4,
            }  # fmt: skip
            ms = baseline_ms / gain
            found += [
                record(sparsity, ms, baseline_ms, pattern="cs", backend="cs", **shared),
                record(sparsity, 1.001 * ms, baseline_ms, pattern="nm", backend="cs", **shared),
                record(
                    sparsity, 1.05 * baseline_ms, baseline_ms, pattern="cs", backend="masked",
                    layers=(LayerReport(name="conv1", ran="dense", reason="masked runs dense"),),
                    **shared,
                ),
                record(
                    sparsity, pattern="unstructured", backend="csr", status="unsupported",
                    reason="csr has no kernel for a CPU", layers=(), **shared,
                ),
            ]  # fmt: skip
    return found


def compared_records() -> list[Record]:
    """Patterns beside dense networks on a GPU: one with two backends, one that cannot run."""
    beside: dict[str, Any] = {
        "baseline_ms": 1.6,
        "dense": {"cudnn fp32": 1.6, "cudnn fp16": 0.4, "cs-dense fp32": 0.62},
        "left_out": {"cs-dense tf32": "wrong: relative error 3.0e-03, allowed 2e-03"},
    }
    kernels = {"bytes": 100, "flops": 100, "algorithm": "tile", "name": "layer1.0.conv1"}
    ran_dense = (LayerReport(ran="dense", reason="multiplies zeros", **kernels),)
    found = [
        record(0.0, ms, pattern="dense", backend=backend, layers=ran_dense, **beside)
        for backend, ms in (("cudnn", 1.6), ("inductor", 1.9), ("cs-dense", 0.62))
    ]
    for sparsity, m in ((0.0, 1), (0.5, 2), (0.75, 4)):
        kept = 1 - sparsity
        found += [
            record(sparsity, 0.2 + 0.4 * kept, pattern=f"cs:{m}", backend="cs", **beside),
            record(sparsity, 0.2005 + 0.4 * kept, pattern=f"nm:1:{m}", backend="nm", **beside),
            record(sparsity, 0.3 + 0.6 * kept, pattern=f"nm:1:{m}", backend="nm-slow", **beside),
            record(sparsity, 1.65, pattern=f"cs:{m}", backend="masked", layers=ran_dense, **beside),
            record(
                sparsity, pattern="ovw:32", backend="ovw", status="unsupported", layers=(),
                reason="ovw needs a GPU of compute capability 9.0",
            ),
        ]  # fmt: skip
    return found


def layer_records() -> list[Record]:
    """Two layers of a network, each timed alone."""
    return [
        msgspec.structs.replace(
            made, layers=tuple(msgspec.structs.replace(x, note="converts") for x in made.layers)
        )
        for made in (
            record(0.75, ms, 3 * ms, task="layer", layer=layer)
            for layer, ms in (("layer1.0.conv2", 0.0123), ("layer4.0.conv2", 0.0456))
        )
    ]


def probe(scheme: str, pattern: str, ms: float, ranks: int = 0) -> Record:
    """A probed training scheme: one phase, or a pruning and a fixed one with mask updates."""
    stages = scheme == "cs"
    names = ("pruning", "fixed mask") if stages else ("SR-STE",)
    steps = 120 * 5004
    phases = tuple(
        PhaseReport(
            name=name,
            steps=steps // len(names),
            samples_ms=samples(ms, phase=i),
            dense_samples_ms=samples(100.0, phase=i + 2),
            split={
                "data": samples(0.1, count=5), "mask": samples(0.5, count=5),
                "forward": samples(33.0, count=5), "backward": samples(62.0, count=5),
                "regulariser": samples(0.0 if stages else 0.4, count=5),
                "optimiser": samples(ms - 96.0, count=5),
            },
            density=0.7 if name == "pruning" else 0.5,
        )
        for i, name in enumerate(names)
    )  # fmt: skip
    updates = EventReport(name="mask update", count=3001, samples_ms=samples(4.0, count=3))
    validation = EventReport(name="validation batch", count=23520, samples_ms=samples(30.0))
    report = TrainingReport(
        recipe=Recipe(
            scheme="Pretrain+finetune" if stages else "Training from scratch",
            method="Gradual pruning" if stages else "Sparse-refined regularization",
            finetune_lr=0.1 if stages else None,
            decay=0.0 if stages else 2e-4,
        ),
        phases=phases,
        events=(updates, validation) if stages else (validation,),
        held_out=HeldOut(
            phase=names[0], steps=100, events=int(stages), measured_ms=100 * ms * 1.01
        ),
        flops=Flops(dense_step=6.3e12, sparsified_step=6.0e12),
        ddp_ms=samples(101.0) if ranks else (),
        plain_ms=samples(100.0) if ranks else (),
        dense_peak_bytes=2**28 - 2**24,
        left_out=("reading images", "start-up, compilation and warm-up"),
    )
    made = record(
        0.5, ms, 100.0, task="train-step", pattern=pattern, backend=scheme, baseline="dense",
        batch=256, dtype="bf16",
        training=TrainSettings(
            dataset="imagenet", epochs=120, steps_per_epoch=5004, ranks=ranks, channels_last=True
        ),
    )  # fmt: skip
    return msgspec.structs.replace(made, training=report, layers=(), check=None)


def whole(scheme: str, pattern: str, sparsity: float, accuracy: float) -> Record:
    """A training to the end on a small set."""
    made = record(
        sparsity, task="train-step", pattern=pattern, backend=scheme, baseline="dense", env=CPU,
        device="cpu", model="resnet20", batch=64, input=(3, 16, 16),
        training=TrainSettings(
            dataset="digits", epochs=2, steps_per_epoch=22, data="real", whole=True
        ),
    )  # fmt: skip
    report = TrainingReport(
        recipe=Recipe(scheme="Pretrain+finetune", method="none", finetune_lr=0.02),
        epochs=(
            EpochReport(loss=1.9, accuracy=0.5, density=1.0),
            EpochReport(loss=0.21, accuracy=accuracy, density=1 - sparsity),
        ),
        train_seconds=30.0,
    )
    return msgspec.structs.replace(made, training=report, measurement=None, layers=(), check=None)


def training_records() -> list[Record]:
    """Two schemes probed on one GPU, one of them on two, and three trained to the end."""
    return [
        probe("nm", "nm:2:4", 101.0),
        probe("cs", "cs:2", 100.8),
        probe("cs", "cs:2", 101.5, ranks=1),
        probe("cs", "cs:2", 103.9, ranks=2),
        whole("dense", "dense", 0.0, 0.981),
        whole("cs-c", "cs:2", 0.5, 0.972),
        whole("cs", "cs:4", 0.75, 0.969),
    ]


def everything() -> list[Record]:
    return [
        *block_records(), *pattern_records(), *compared_records(), *layer_records(),
        *training_records(),
    ]  # fmt: skip


def write_golden() -> None:
    """Render the golden files anew: `python tests/report/made.py`, then read the difference."""
    folder = Path(__file__).parents[1] / "golden"
    for name in TABLE_NAMES:
        for format_, suffix in (("text", "txt"), ("markdown", "md"), ("latex", "tex")):
            rendered = render(everything(), table=name, format=format_)
            (folder / f"{name}.{suffix}").write_text(rendered, encoding="utf-8")
    for suffix in ("csv", "json", "html"):
        rendered = render(everything(), format=suffix)
        (folder / f"all.{suffix}").write_text(rendered, encoding="utf-8")
    with (folder / "records.jsonl").open("wb") as file:
        file.writelines(msgspec.json.encode(record) + b"\n" for record in everything())


def write_many(path: Path, count: int = 200) -> None:
    """What to time `csbench report` with: 54 layers and 100 samples a record.

    Written by `python tests/report/made.py FILE`.
    """
    layers = tuple(
        LayerReport(name=f"layer{i}", ran="sparse", bytes=1000, flops=1000) for i in range(53)
    )
    with path.open("wb") as file:
        for i in range(count):
            one = record(
                SPARSITIES[i % 5], 1 + i / 100, batch=1 + i // 10, layers=(STEM, *layers),
                backend=("block-original", "block-cutlass")[i // 5 % 2],
            )  # fmt: skip
            assert one.measurement is not None
            measured = msgspec.structs.replace(
                one.measurement,
                samples_ms=samples(1 + i / 100, count=100, phase=i),
                baseline_samples_ms=samples(2.0, count=100, phase=i + 1),
            )
            file.write(msgspec.json.encode(msgspec.structs.replace(one, measurement=measured)))
            file.write(b"\n")


if __name__ == "__main__":
    write_many(Path(sys.argv[1])) if len(sys.argv) > 1 else write_golden()

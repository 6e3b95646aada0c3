"""Records made up by rule, the same on every machine: what the golden tables are rendered from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from csbench.core.case import Case, CheckpointRef
from csbench.core.record import Check, LayerReport, Measurement, Record, Sparsity
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
    layers: tuple[LayerReport, ...] | None = None,
    env: dict[str, Any] = GPU,
    **case: Any,
) -> Record:
    """One record; `case` overrides a block-sparse ResNet50 on a GPU."""
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


def layer_records() -> list[Record]:
    """Two layers of a network, each timed alone."""
    return [
        record(0.75, ms, 3 * ms, task="layer", layer=layer)
        for layer, ms in (("layer1.0.conv2", 0.0123), ("layer4.0.conv2", 0.0456))
    ]


def training_records() -> list[Record]:
    """Training steps of two schemes."""
    return [
        record(sparsity=0.5, ms=ms, task="train-step", pattern=scheme, backend=scheme, batch=256)
        for scheme, ms in (("nm", 101.0), ("cs", 100.8))
    ]


def everything() -> list[Record]:
    return block_records() + pattern_records() + layer_records() + training_records()


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

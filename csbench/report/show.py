"""Records in words: a line each, or one whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from csbench.core.projection import hours
from csbench.core.record import Measurement, Record
from csbench.core.statistics import interval, mad, middle, speedup
from csbench.core.training import TrainingReport, TrainSettings
from csbench.report.tables.cells import percent, shape


def listing(records: Iterable[Record]) -> str:
    """One line a record, in the file's order, columns aligned."""
    heads = ("KEY", "STATUS", "MODEL", "PATTERN", "SPARSITY", "BACKEND", "DEVICE", "BATCH",
             "TIME (MS)", "SPEED-UP (X)", "REASON")  # fmt: skip
    lines = [heads, *(_line(record) for record in records)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _line(record: Record) -> tuple[str, ...]:
    case, measured = record.case, record.measurement
    model = f"{case.model}:{case.layer}" if case.layer else case.model
    time = "--"
    if measured and measured.samples_ms:
        time = f"{middle(measured.samples_ms, measured.copies):.3f}"
    return (
        record.key,
        record.status,
        model,
        case.pattern,
        percent(case.sparsity),
        case.backend,
        f"{case.device} {case.dtype}",
        str(case.batch),
        time,
        _speedup(record, measured) if measured else "--",
        record.reason or "",
    )


def whole(record: Record) -> str:
    """Everything a record holds that a person can read: samples in summary, layers by what ran."""
    case = record.case
    source = case.checkpoint.path or f"synthetic, seed {case.checkpoint.seed}"
    lines = [
        ("key", record.key),
        ("created", record.created),
        ("status", f"{record.status}{f': {record.reason}' if record.reason else ''}"),
        ("task", case.task + (f" {case.layer}" if case.layer else "")),
        ("model", f"{case.model}, input {shape(case.input)}, batch {case.batch}, {case.dtype}"),
        ("weights", source),
        ("pattern", f"{case.pattern}, {percent(case.sparsity)} asked for"),
        ("backend", f"{case.backend} on {case.device}, against {case.baseline}"),
        *(_measured(record, record.measurement) if record.measurement else ()),
    ]
    lines += _trained(record)
    if record.check is not None:
        error = record.check.relative_error
        said = "not a number" if error is None else f"{error:.2e}"
        lines.append(("error", f"{said} relative, tolerance {record.check.tolerance:g}"))
    if record.sparsity is not None:
        found = record.sparsity
        lines.append(("sparsity", f"layers {found.layers:.2%}, whole model {found.model:.2%}"))
    if record.mask_ms:
        lines.append(("masks found in", f"{record.mask_ms:.1f} ms"))
    if record.prepare_ms is not None:
        lines.append(("prepared in", f"{record.prepare_ms:.1f} ms"))
    if record.peak_bytes is not None:
        lines.append(("peak memory", f"{record.peak_bytes / 2**20:.1f} MiB"))
    lines += _layers(record)
    lines += [("environment", f"{name}: {_said(value)}") for name, value in record.env.items()]
    return "\n".join(f"{_once(lines, i):<12} {value}" for i, (_, value) in enumerate(lines))


def _trained(record: Record) -> list[tuple[str, str]]:
    """What was trained or probed, phase by phase, and the hours projected from it."""
    asked, report = record.case.training, record.training
    if not isinstance(asked, TrainSettings):
        return []
    ranks = f", {asked.ranks} ranks" if asked.ranks else ""
    lines = [
        (
            "schedule",
            f"{asked.dataset} ({asked.data} images), {asked.epochs} epochs of "
            f"{asked.steps_per_epoch} steps{ranks}",
        )
    ]
    if not isinstance(report, TrainingReport):
        return lines
    lines += [(p.name, f"{p.steps} steps; {_summary(p.samples_ms)}") for p in report.phases]
    lines += [(e.name, f"{e.count} times; {_summary(e.samples_ms)}") for e in report.events]
    projected = hours(report)
    if projected is not None:
        value, low, high = projected
        lines.append(("projected", f"{value:.3f} h, 95 % [{low:.3f}, {high:.3f}]"))
    lines += [
        (f"epoch {i}", f"loss {epoch.loss:.4f}, accuracy {epoch.accuracy:.2%}")
        for i, epoch in enumerate(report.epochs, start=1)
    ]
    return lines


def _said(value: object) -> str:
    """A value of the environment in words; a table in one line."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_said(inner)}" for name, inner in value.items())
    return str(value)


def _once(lines: Sequence[tuple[str, str]], i: int) -> str:
    """A line's name, unless the line above has it already."""
    name = lines[i][0]
    return "" if i and lines[i - 1][0] == name else name


def _measured(record: Record, measured: Measurement) -> list[tuple[str, str]]:
    how = f"{measured.mode}, cache {measured.cache}, warm-up {measured.warmup}"
    how += f", {measured.copies} copies" if measured.copies > 1 else ""
    lines = [("measured", f"{how}, {len(measured.throttled)} pairs throttled")]
    if measured.samples_ms:
        lines.append(("time", _summary(measured.samples_ms, measured.copies)))
    if measured.baseline_samples_ms:
        lines.append(("baseline", _summary(measured.baseline_samples_ms, measured.copies)))
        lines.append(("speed-up", f"{_speedup(record, measured)} over {record.case.baseline}"))
    for name, samples in measured.dense_samples_ms.items():
        lines.append(("dense ways", f"{name}: {_summary(samples)}"))
    for name, reason in measured.dense_left_out.items():
        lines.append(("left out", f"{name}: {reason}"))
    if measured.dense_best_ms is not None:
        lines.append(("best dense", f"{measured.dense_best_ms:.4f} ms ({measured.dense_best})"))
    return lines


def _summary(samples: Sequence[float], copies: int = 1) -> str:
    low, high = interval(samples, copies)
    return (
        f"median {middle(samples, copies):.4f} ms, 95 % [{low:.4f}, {high:.4f}], "
        f"MAD {mad(samples):.4f}, min {min(samples):.4f}, max {max(samples):.4f}, "
        f"{len(samples)} samples"
    )


def _speedup(record: Record, measured: Measurement) -> str:
    if record.status not in ("ok", "noisy") or not measured.baseline_samples_ms:
        return "--"
    found = speedup(measured.samples_ms, measured.baseline_samples_ms, measured.copies)
    return f"{found.ratio:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _layers(record: Record) -> list[tuple[str, str]]:
    """How many layers ran sparse, and each that did not with its reason."""
    dense = [layer for layer in record.layers if layer.ran == "dense"]
    if not record.layers:
        return []
    ran = len(record.layers) - len(dense)
    return [
        ("layers", f"{ran} of {len(record.layers)} ran sparse"),
        *(("ran dense", f"{layer.name}: {layer.reason or 'no reason given'}") for layer in dense),
    ]

"""A backend's path for a whole network, on a small network with everything that ResNets have."""

from __future__ import annotations

import contextlib
import dataclasses

import torch
from torch import Tensor, nn

from csbench.backends.base import TORCH_DTYPE, LoweredNetwork, NetworkBackend
from csbench.backends.conformance.diagnosis import diagnose
from csbench.backends.conformance.layers import prune
from csbench.backends.conformance.report import NotApplicable, Rejected
from csbench.backends.conformance.subject import Subject
from csbench.backends.poison import poisoned
from csbench.backends.registry import dense_baseline
from csbench.core.case import Case
from csbench.core.pattern import PatternSpec
from csbench.graph import Conv, Program, reference, trace

INPUT = (3, 32, 32)


class SmallNet(nn.Module):
    """A stem, a bottleneck with a projection, a plain one with stride, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 7, 2, 3)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.a1, self.a2 = nn.Conv2d(64, 64, 1), nn.Conv2d(64, 64, 3, padding=1)
        self.a3, self.shortcut = nn.Conv2d(64, 128, 1), nn.Conv2d(64, 128, 1)
        self.b1, self.b2 = nn.Conv2d(128, 64, 3, 2, 1), nn.Conv2d(64, 64, 3, padding=1)
        self.c1, self.c2 = nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)
        self.fc = nn.Linear(64, 50)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.stem(x).relu())
        x = (self.a3(self.a2(self.a1(x).relu()).relu()) + self.shortcut(x)).relu()
        x = self.b2(self.b1(x).relu()).relu()
        x = (self.c2(self.c1(x).relu()) + x).relu()
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


def network(subject: Subject) -> str:
    """The whole-network path, where there is one, is right, fresh each time, and says what ran."""
    backend = subject.backend
    if not isinstance(backend, NetworkBackend):
        raise NotApplicable("convolution by convolution")
    program = small_program(subject.spec, subject.seed)
    paths = 0
    for batch in (1, 3):
        try:
            lowered = backend.lower_network(program, network_case(subject, batch))
            if lowered is not None:
                paths += 1
                _reported(lowered, program)
                _right(lowered, program, batch, subject)
        except Rejected:
            raise
        except Exception as error:
            line = (str(error).strip().splitlines() or [""])[0]
            raise Rejected(
                "raises", f"small network, batch {batch}: {type(error).__name__}: {line}"
            ) from error
    if not paths:
        raise NotApplicable("it prefers convolution by convolution")
    return f"{paths} batch sizes"


def network_case(subject: Subject, batch: int) -> Case:
    """The case of the small network at a batch."""
    return Case(
        model="conformance", pattern=subject.spec.family, sparsity=0.75,
        backend=subject.backend.name, baseline=dense_baseline(subject.device),
        device=subject.device, dtype=subject.dtype, batch=batch, input=INPUT,
    )  # fmt: skip


def small_program(spec: PatternSpec, seed: int) -> Program:
    """The network with random weights, pruned where the pattern divides them (never the stem)."""
    generator = torch.Generator().manual_seed(seed)
    model = SmallNet()
    with torch.no_grad():
        for p in model.parameters():
            scale = (2 / p[0].numel()) ** 0.5 if p.dim() > 1 else 0.1
            p.copy_(torch.randn(p.shape, generator=generator) * scale)
    program = trace(model, INPUT, "conformance")
    own = spec.own_sparsity
    steps = []
    for step in program.steps:
        if isinstance(step.op, Conv) and step.op.name not in ("stem", "fc"):
            pruned = prune(step.op.weight, spec, 0.75 if own is None else own)
            if pruned is not None:
                conv = dataclasses.replace(step.op, weight=pruned[0], pattern=pruned[1])
                step = dataclasses.replace(step, op=conv)
        steps.append(step)
    return dataclasses.replace(program, steps=tuple(steps))


def _reported(lowered: LoweredNetwork, program: Program) -> None:
    told = [layer.name for layer in lowered.layers]
    if sorted(told) != sorted(conv.name for conv in program.convolutions):
        raise Rejected("bad-layer-report", f"layers are {', '.join(told)}; expected every one once")
    for layer in lowered.layers:
        if layer.ran not in ("sparse", "dense"):
            raise Rejected("bad-layer-report", f"{layer.name} ran '{layer.ran}'")


def _right(lowered: LoweredNetwork, program: Program, batch: int, subject: Subject) -> None:
    where = f"small network, batch {batch}"
    earlier: list[tuple[Tensor, Tensor]] = []  # results, and copies of them
    formats = (torch.contiguous_format, torch.contiguous_format, torch.channels_last)
    for i, memory in enumerate(formats):
        generator = torch.Generator().manual_seed(subject.seed + 60 + i)
        image = torch.randn(batch, *INPUT, generator=generator)
        x = image.to(subject.device, TORCH_DTYPE[subject.dtype]).contiguous(memory_format=memory)
        before = x.clone()
        with poisoned() if i == 0 else contextlib.nullcontext():
            out = lowered(x)
        fault = diagnose(out, reference.run(program, before), x, subject.dtype)
        if fault is not None and any(torch.equal(out, copy) for _, copy in earlier):
            raise Rejected("cached-result", f"{where}: an earlier result came back")
        if fault is not None:
            raise Rejected(fault.reason, f"{where}: {fault.detail}")
        if not torch.equal(x, before):
            raise Rejected("input-modified", f"{where}: it wrote to the image")
        if not all(torch.equal(result, copy) for result, copy in earlier):
            raise Rejected("shared-output", f"{where}: a call overwrote an earlier result")
        earlier.append((out, out.clone()))

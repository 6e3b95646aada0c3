"""The checks: each returns what it found in a few words, or raises Rejected with its reason."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from csbench.backends.base import LoweredConv
from csbench.backends.conformance.diagnosis import Fault, drift, settles
from csbench.backends.conformance.report import Rejected
from csbench.backends.conformance.subject import Lowered, Subject
from csbench.backends.poison import poisoned, scribble
from csbench.backends.registry import dtypes
from csbench.core.case import DTYPES
from csbench.core.tolerance import tolerance
from csbench.graph.reference import relative_error

# A factor that every result is off by hides in a half's tolerance, but not in the mean over all
# layers. TF32 hardware truncates, which is such a factor.
ROUNDS = 3
DRIFT = {"fp32": 5e-6, "tf32": 2e-3, "fp16": 3e-4, "bf16": 5e-4}


def declarations(subject: Subject) -> str:
    """Names, devices and precisions are of the declared kind and known."""
    backend = subject.backend
    if not isinstance(backend.name, str) or not backend.name:
        raise Rejected("bad-declaration", f"name is {backend.name!r}; expected a word")
    known = {"patterns": None, "devices": {"cpu", "cuda"}, "dtypes": set(DTYPES)}
    for attribute, allowed in known.items():
        given = getattr(backend, attribute)
        if not isinstance(given, frozenset | set) or not given:
            raise Rejected("bad-declaration", f"{attribute} is {given!r}; expected a frozenset")
        if allowed is not None and not given <= allowed:
            extra = ", ".join(sorted(map(str, given - allowed)))
            known_names = ", ".join(sorted(allowed))
            raise Rejected("bad-declaration", f"{attribute} has {extra}; known: {known_names}")
    for attribute, own, wanted in [
        ("devices", backend.devices, subject.device.partition(":")[0]),
        ("dtypes", dtypes(backend, subject.device), subject.dtype),
        ("patterns", backend.patterns, subject.spec.name),
    ]:
        if wanted not in own:
            raise Rejected("bad-declaration", f"{attribute} lacks {wanted}, which is tested")
    missing = backend.missing(subject.device)
    if missing is not None:
        raise Rejected("bad-declaration", f"not ready on {subject.device}: {missing}")
    return f"{backend.name} runs {', '.join(sorted(backend.patterns))}"


def layers(subject: Subject) -> str:
    """It runs some of the awkward layers; what it refuses, it refuses with a reason."""
    lowered, refusals = subject.lowered, subject.refusals
    refused = "; ".join(f"{count} x {reason}" for reason, count in refusals.most_common(3))
    if not lowered:
        raise Rejected("refuses-everything", f"it runs no layer: {refused or 'none fits'}")
    for low in lowered:
        if not callable(low.run):
            raise Rejected(
                "bad-declaration", f"lower gave a {type(low.run).__name__}; expected a callable"
            )
        if (
            isinstance(low.run, LoweredConv)
            and min(low.run.weight_bytes, low.run.workspace_bytes) < 0
        ):
            raise Rejected("bad-declaration", f"negative bytes for {low.trial.name}")
    text = f"{len(lowered)} of {len(lowered) + refusals.total()} run"
    return f"{text}; refused: {refused}" if refused else text


def output(subject: Subject) -> str:
    """Results are plain tensors of the right shape, precision and device."""
    for low in subject.lowered:
        _, fault = low.judge(low.trial.inputs(subject.seed))
        if fault is not None and fault.reason in ("lazy-output", "wrong-shape"):
            raise _rejected(fault, low)
    return "plain tensors"


def memory(subject: Subject) -> str:
    """Every number of the result is written by the call, before it returns or on its stream."""
    waited = False
    for low in subject.lowered:
        inputs = low.trial.inputs(subject.seed + 1)
        for fill in (poisoned, contextlib.nullcontext):
            with fill():
                scribble(inputs[0].new_empty(low.trial.case.batch, *low.trial.conv.output_size))
                out, fault = low.judge(inputs)
            if fault is None:
                continue
            if not waited and settles(out, low.expected(inputs), subject.dtype):
                why = f"the output becomes right after the call ({low.trial.name})"
                raise Rejected("unfinished", why)
            waited = True  # waiting once tells what it can
            if fault.reason == "never-written":
                raise _rejected(fault, low)
    return "nothing unwritten is read or returned"


def correctness(subject: Subject) -> str:
    """Every layer is within the precision's tolerance of the float64 reference, on fresh inputs."""
    faults: dict[str, Fault] = {}
    errors: dict[str, float] = {}
    drifts = []
    for low in subject.lowered:
        for i in range(ROUNDS):
            inputs = low.trial.inputs(subject.seed + 2 + i)
            expected = low.expected(inputs)
            out, fault = low.judge(inputs)
            if fault is not None:
                faults.setdefault(low.trial.name, fault)
            else:
                error = relative_error(out, expected)
                errors[low.trial.name] = max(error, errors.get(low.trial.name, 0.0))
                drifts.append(drift(out, expected))
    _reject_faults(faults, len(errors.keys() - faults.keys()))
    mean = sum(drifts) / len(drifts)
    if abs(mean) > DRIFT[subject.dtype]:
        size = "large" if mean > 0 else "small"
        raise Rejected("inaccurate", f"results are {abs(mean):.2%} too {size} on average")
    worst = max(errors, key=lambda name: errors[name])
    return f"error up to {errors[worst]:.1e} (allowed {tolerance(subject.dtype):.0e}) in {worst}"


def _reject_faults(faults: dict[str, Fault], right: int) -> None:
    if not faults:
        return
    reason = Counter(fault.reason for fault in faults.values()).most_common(1)[0][0]
    where, fault = next((n, f) for n, f in faults.items() if f.reason == reason)
    if reason == "wrong-result" and right:
        count = f"right on {right} layers, wrong on {len(faults)}, for example {where}"
        raise Rejected("right-on-some-shapes-only", f"{count}: {fault.detail}")
    raise Rejected(reason, f"{fault.detail} ({where})")


def fresh_inputs(subject: Subject) -> str:
    """New inputs give new results, also in the same memory, and old results stay as they are.

    Whether the results are right is for `correctness` to say.
    """
    for low in subject.lowered:
        inputs = low.trial.inputs(subject.seed + 10)
        earlier = low(inputs)
        kept = earlier.clone()
        for i in range(ROUNDS):
            fresh = low.trial.inputs(subject.seed + 11 + i)
            if i == ROUNDS - 1:  # the same tensors with other numbers in them
                for old, new in zip(inputs, fresh, strict=True):
                    old.copy_(new)
                fresh = inputs
            out, fault = low.judge(fresh)
            if fault is not None and torch.equal(out, kept):
                raise Rejected("cached-result", f"an earlier result came back ({low.trial.name})")
            if not torch.equal(earlier, kept):
                raise Rejected(
                    "shared-output", f"a call overwrote an earlier result ({low.trial.name})"
                )
    return f"{ROUNDS} new inputs a layer"


def _bordered(x: Tensor) -> Tensor:
    """The tensor as the inside of a larger one that holds NaN."""
    n, c, h, w = x.shape
    around = x.new_full((n, c + 1, h + 2, w + 3), float("nan"))
    inside = around[:, 1:, 1:-1, 1:-2]
    return inside.copy_(x)


FORMATS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "view in NaN": _bordered,
    "height and width swapped": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "every second image": lambda x: torch.stack([x, x], dim=1).flatten(0, 1)[::2],
}


def input_formats(subject: Subject) -> str:
    """Inputs are read through their strides; the residual may come in another format than x."""
    for low in subject.lowered:
        plain = low.trial.inputs(subject.seed + 20)
        if low.judge(plain)[1] is not None:
            continue  # wrong in any format: that is for `correctness` to say
        for name, arrange in FORMATS.items():
            choices = [tuple(arrange(x) for x in plain)]
            if len(plain) == 2:
                choices.append((arrange(plain[0]), plain[1]))
                choices.append((plain[0], arrange(plain[1])))
            for inputs in choices:
                _, fault = low.judge(inputs)
                if fault is not None:
                    raise Rejected(
                        "wrong-stride",
                        f"wrong for an input that is {name}: {fault.detail} ({low.trial.name})",
                    )
    return ", ".join(("contiguous", *FORMATS))


def determinism(subject: Subject) -> str:
    """The same input gives the same bits."""
    for low in subject.lowered:
        inputs = low.trial.inputs(subject.seed + 30)
        first = low(inputs).clone()
        for _ in range(3):
            if not torch.equal(low(inputs), first):
                raise Rejected("not-deterministic", f"two calls differ ({low.trial.name})")
    return "4 calls a layer, bit for bit"


def inputs_kept(subject: Subject) -> str:
    """Neither the inputs nor the layer's weights are written to."""
    for low in subject.lowered:
        conv = low.trial.conv
        watched = (*low.trial.inputs(subject.seed + 40), conv.weight, conv.bias)
        before = [x.clone() for x in watched]
        low(watched[:-2])
        names = [*["x", "the residual"][: len(watched) - 2], "the weight", "the bias"]
        for name, x, old in zip(names, watched, before, strict=True):
            if not torch.equal(x, old):
                raise Rejected("input-modified", f"a call wrote to {name} ({low.trial.name})")
    return "x, residual, weight and bias"


def _rejected(fault: Fault, low: Lowered) -> Rejected:
    return Rejected(fault.reason, f"{fault.detail} ({low.trial.name})")

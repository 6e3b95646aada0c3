"""What declares a pattern leaves the pattern's zeros out, layer by layer and in whole networks."""

from __future__ import annotations

from csbench.backends.base import NetworkBackend
from csbench.backends.conformance.network import network_case, small_program
from csbench.backends.conformance.report import NotApplicable, Rejected
from csbench.backends.conformance.subject import Subject, raised
from csbench.backends.zeros import multiplies_zeros, network_multiplies_zeros


def zeros(subject: Subject) -> str:
    """An infinite input that only zero weights would meet leaves the results as they are.

    Layers that are wrong anyhow are for `correctness` to name.
    """
    if subject.spec.name == "dense":
        raise NotApplicable("dense layers multiply every weight")
    right = [
        low
        for low in subject.lowered
        if low.trial.conv.pattern is not None
        and low.judge(low.trial.inputs(subject.seed + 45))[1] is None
    ]
    for low in right:
        try:
            met = multiplies_zeros(low.run, low.trial.conv, low.trial.case)
        except Exception as error:  # third-party code may raise anything
            raise raised("running", low.trial, error) from error
        if met:
            raise Rejected("multiplies-zeros", f"its zeros meet the input ({low.trial.name})")
    if isinstance(subject.backend, NetworkBackend):
        _network(subject, subject.backend)
    return f"{len(right)} layers leave them out"


def _network(subject: Subject, backend: NetworkBackend) -> None:
    for conv in small_program(subject.spec, subject.seed).convolutions:
        if conv.pattern is not None and network_multiplies_zeros(
            backend, conv, network_case(subject, 1)
        ):
            raise Rejected(
                "multiplies-zeros", f"in a whole network its zeros meet the input ({conv.name})"
            )

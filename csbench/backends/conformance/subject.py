"""The backend under test with every layer lowered once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from csbench.backends.base import Backend, Run
from csbench.backends.conformance.diagnosis import Fault, diagnose
from csbench.backends.conformance.layers import Trial, trials
from csbench.backends.conformance.report import Rejected
from csbench.backends.registry import dense_baseline
from csbench.core.pattern import PatternSpec
from csbench.graph import reference


@dataclass(frozen=True, eq=False)
class Lowered:
    """A layer and the callable that the backend made of it."""

    trial: Trial
    run: Run

    def __call__(self, inputs: tuple[Tensor, ...]) -> Any:
        """The result, plain as the backend returns it; an exception becomes a rejection."""
        try:
            return self.run(*inputs)
        except Exception as error:  # third-party code may raise anything
            raise raised("running", self.trial, error) from error

    def judge(self, inputs: tuple[Tensor, ...]) -> tuple[Any, Fault | None]:
        """The result and what is wrong with it; the reference is computed before the call."""
        expected = self.expected(inputs)
        out = self(inputs)
        return out, diagnose(out, expected, inputs[0], self.trial.case.dtype)

    def expected(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """The float64 reference of these inputs."""
        return reference.convolution(self.trial.conv, *inputs)


@dataclass(eq=False)
class Subject:
    """A backend on a device, in a precision, on a pattern."""

    backend: Backend
    device: str
    dtype: str
    spec: PatternSpec
    seed: int
    refusals: Counter[str] = field(default_factory=Counter)

    @cached_property
    def lowered(self) -> tuple[Lowered, ...]:
        """Every layer that the backend does not refuse; refusals are counted by their reason."""
        baseline = dense_baseline(self.device)
        found = []
        for trial in trials(
            self.backend.name, baseline, self.device, self.dtype, self.spec, self.seed
        ):
            reason = self._refusal(trial)
            if reason is not None:
                self.refusals[reason] += 1
                continue
            try:
                run = self.backend.lower(trial.conv, trial.case)
            except Exception as error:
                raise raised("lowering", trial, error) from error
            found.append(Lowered(trial, run))
        return tuple(found)

    def _refusal(self, trial: Trial) -> str | None:
        reason: object
        try:
            reason = self.backend.why_not(trial.conv, trial.case)
        except Exception as error:
            raise raised("why_not on", trial, error) from error
        if reason is not None and (not isinstance(reason, str) or not reason.strip()):
            raise Rejected(
                "bad-declaration",
                f"why_not gave {reason!r}; expected None or a sentence that says why",
            )
        return reason


def raised(doing: str, trial: Trial, error: Exception) -> Rejected:
    """A rejection for an exception, in one line."""
    line = (str(error).strip().splitlines() or [""])[0]
    return Rejected("raises", f"{doing} {trial.name}: {type(error).__name__}: {line}")

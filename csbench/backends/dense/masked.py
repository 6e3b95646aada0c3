"""Sparse weights run dense: what people time by mistake. Zeros are multiplied like any number.

It lists the pattern "dense" alone, so that every layer it runs is reported as dense.
"""

from __future__ import annotations

import dataclasses

from csbench.backends import registry
from csbench.backends.base import Backend, LoweredConv, LoweredNetwork, NetworkBackend
from csbench.core.case import DTYPES, Case
from csbench.errors import BackendError
from csbench.graph.program import Conv, Program


class Masked:
    """The device's dense backend under a name that says what it is."""

    name = "masked"
    patterns = frozenset({"dense"})
    devices = frozenset(registry.DENSE_BASELINE)
    dtypes = frozenset(DTYPES)

    @property
    def device_dtypes(self) -> dict[str, frozenset[str]]:
        return {device: _dense(device).dtypes for device in self.devices}

    def missing(self, device: str) -> str | None:
        try:
            return _dense(device).missing(device)
        except BackendError as error:
            return str(error)

    def why_not(self, conv: Conv, case: Case) -> str | None:
        dense = _dense(case.device)
        if case.dtype not in dense.dtypes:
            return f"{dense.name} does not run {case.dtype}"
        return dense.why_not(conv, case)

    def lower(self, conv: Conv, case: Case) -> LoweredConv:
        dense = _dense(case.device)
        run = dense.lower(conv, case)
        label = f"masked weights, dense {dense.name}"
        if not isinstance(run, LoweredConv):
            return LoweredConv(run, weight_bytes=4 * conv.weight.numel(), algorithm=label)
        how = f"{label}: {run.algorithm}" if run.algorithm else label
        return dataclasses.replace(run, algorithm=how)

    def lower_network(self, program: Program, case: Case) -> LoweredNetwork | None:
        """The dense backend's own path: masked weights get what the baseline gets."""
        dense = _dense(case.device)
        return dense.lower_network(program, case) if isinstance(dense, NetworkBackend) else None


def _dense(device: str) -> Backend:
    return registry.get(registry.dense_baseline(device))

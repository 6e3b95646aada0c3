"""How far an output may be from the float64 reference: ||out - ref|| / ||ref||, by precision."""

from __future__ import annotations

from csbench.errors import UsageError, unknown

RELATIVE = {"fp32": 1e-5, "tf32": 2e-3, "fp16": 1e-2, "bf16": 1e-2}


def tolerance(dtype: str) -> float:
    """The largest relative error of a precision; raises UsageError for an unknown one."""
    if dtype not in RELATIVE:
        raise UsageError(unknown("dtype", dtype, RELATIVE))
    return RELATIVE[dtype]

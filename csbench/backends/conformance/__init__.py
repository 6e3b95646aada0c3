"""The conformance kit: what a backend must prove before its times mean anything.

>>> from csbench.backends import conformance, registry
>>> report = conformance.run(registry.get("fake"), device="cpu", dtype="fp32", pattern="dense")
>>> report.passed
True
"""

from csbench.backends.conformance.kit import run
from csbench.backends.conformance.report import Outcome, Reason, Report

__all__ = ["Outcome", "Reason", "Report", "run"]

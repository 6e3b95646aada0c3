"""Vectors of output channels on a Hopper GPU: two sets of kernels, by the number of images.

Below eight images `latency` takes the networks that it can (kernels/latency/vectors.cuh): launches
and latency are the limit there. From eight on images are neighbours in memory, and `gather` reads a
kept channel as fast as any.
"""

from __future__ import annotations

from csbench.backends.base import LoweredConv, LoweredNetwork
from csbench.backends.cs import latency
from csbench.backends.vector import gather
from csbench.backends.vector.gather import missing, why_not
from csbench.backends.vector.together import rows_together
from csbench.core.case import Case
from csbench.graph.program import Conv, Program
from csbench.kernels.gather.layout import EIGHT

__all__ = ["lower", "lower_network", "missing", "why_not"]


def lower(conv: Conv, case: Case) -> LoweredConv:
    """The layer by the kernels for so many images.

    In fp16 only by those for few: in other precisions they need numbers of a known range, which a
    network finds and a layer by itself does not.
    """
    few = case.batch < EIGHT and case.dtype == "fp16"
    if few and latency.why_not(conv, case) is None:
        return latency.lower(conv, case)
    return gather.lower(conv, case)


def lower_network(program: Program, case: Case, *, sparse: bool = True) -> LoweredNetwork:
    """The network by the kernels for so many images; without `sparse` every layer dense on those
    that the sparse network runs on."""
    found = None
    if case.batch < EIGHT:  # their pixels hold all channels
        found = latency.lower_network(rows_together(program), case, sparse=sparse)
    return found or gather.lower_network(program, case, sparse=sparse)

"""The channels of a network in an order in which the rows of a vector are neighbours.

Rows of a vector are found by clustering and lie anywhere, so a kernel whose pixels hold all
channels stores each row by itself. But values that only convolutions read may hold their channels
in any order: the rows of the layers that make them and the input channels of those that read them
move alike. What is added up or pooled has one order, that of the layer that gains most.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from csbench.backends.cs.pooling import is_pooling
from csbench.backends.vector.units import in_runs, vectors_of
from csbench.errors import PatternError
from csbench.graph.program import Conv, Program


def rows_together(program: Program) -> Program:
    """The same network, rows of vectors side by side wherever no other operation minds."""
    convs = {step.output: step.op for step in program.steps if isinstance(step.op, Conv)}
    inputs = {step.output: step.inputs[0] for step in program.steps if step.output in convs}
    moved = dict(convs)
    for values in _tied(program):
        rows = _order([convs[v] for v in values & convs.keys()]) if _free(program, values) else None
        if rows is None:
            continue
        for value in values & convs.keys():
            conv = moved[value]
            moved[value] = replace(conv, weight=conv.weight[rows], bias=conv.bias[rows])
        for value in [made for made, read in inputs.items() if read in values]:
            moved[value] = replace(moved[value], weight=moved[value].weight[:, rows])
    steps = (replace(step, op=moved.get(step.output, step.op)) for step in program.steps)
    return replace(program, steps=tuple(steps))


def _tied(program: Program) -> list[set[int]]:
    """Sets of values whose channels are added up or pooled, so have one order."""
    tied = {value: {value} for value in (0, *(step.output for step in program.steps))}
    for step in program.steps:
        same = step.inputs[1:] if isinstance(step.op, Conv) else step.inputs
        for value in same if isinstance(step.op, Conv) or is_pooling(step.op) else ():
            both = tied[step.output] | tied[value]
            tied |= dict.fromkeys(both, both)
    return list({id(values): values for values in tied.values()}.values())


def _free(program: Program, values: set[int]) -> bool:
    """Whether only whole convolutions and poolings make and read these values."""
    around = [s.op for s in program.steps if s.output in values or values & {*s.inputs}]
    if values & {0, program.result}:
        return False
    return all(op.groups == 1 if isinstance(op, Conv) else is_pooling(op) for op in around)


def _order(convs: list[Conv]) -> Tensor | None:
    """The rows of the layer that stores, and reads to add, most of these that have vectors."""
    by_traffic = sorted(convs, key=lambda c: prod(c.output_size) * (1 + c.residual), reverse=True)
    return next((rows for conv in by_traffic if (rows := _rows(conv)) is not None), None)


def _rows(conv: Conv) -> Tensor | None:
    """The rows of a layer, vector by vector; None where it has none, or they are in place."""
    if conv.pattern is None or in_runs(conv):
        return None
    try:
        rows = vectors_of(conv.weight, conv.pattern).row_permutation.long()
    except PatternError:  # said where the layer is lowered
        return None
    return None if torch.equal(rows, torch.arange(len(rows))) else rows

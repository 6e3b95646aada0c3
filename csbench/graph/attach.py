"""Patterns onto the layers of a program."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from csbench.core.pattern import PatternSpec
from csbench.errors import ModelError, unknown
from csbench.graph.program import Conv, Program


def attach(program: Program, patterns: Mapping[str, PatternSpec]) -> Program:
    """The program with `pattern` set on the named layers, and none on all others.

    Raises ModelError for a name that is no layer.
    """
    names = {conv.name for conv in program.convolutions}
    for name in patterns:
        if name not in names:
            raise ModelError(unknown(f"layer of {program.model}", name, sorted(names)))
    steps = []
    for step in program.steps:
        if isinstance(step.op, Conv):
            conv = dataclasses.replace(step.op, pattern=patterns.get(step.op.name))
            step = dataclasses.replace(step, op=conv)
        steps.append(step)
    return dataclasses.replace(program, steps=tuple(steps))

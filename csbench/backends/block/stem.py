"""A network's first layer and the max pooling after it: by wgmma's stem kernel where it is faster.

That kernel keeps fp32's accuracy by a split into halves, and takes the pooling along.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from csbench.backends.base import LoweredConv
from csbench.backends.cs.calibrate import calibrate
from csbench.backends.cs.lowering import power_for
from csbench.backends.cs.pooling import stem_takes
from csbench.backends.cs.throughput_layer import Stem, geometry, kind_of
from csbench.backends.dense.algorithms import normal
from csbench.core.case import Case
from csbench.graph.program import Conv, Program
from csbench.kernels import nvrtc, search
from csbench.kernels.block.planes import CHANNELS, SOURCE, from_planes

SOURCES = ("wgmma/stem_pool.cu", SOURCE)


@dataclass(frozen=True, eq=False)
class Start:
    """What stands for the first two steps of a program, and what its layer does."""

    run: Callable[[Tensor], Tensor]
    layer: LoweredConv


def faster(program: Program, case: Case, dense: LoweredConv) -> Start | None:
    """The first two steps in one, where that beats `dense` and torch's pooling.

    None where it does not, or where the kernel does not take them.
    """
    if not _fits(program, case):
        return None
    start = _start(program, case)
    x = normal(program.input_size, case, "NCHW")
    pooling = program.steps[1].op
    assert not isinstance(pooling, Conv)
    runs = {
        "dense": lambda: pooling(dense(x)).contiguous(memory_format=torch.channels_last),
        "wgmma": lambda: start.run(x),
    }
    shape = tuple(geometry(_first(program)))
    key = ("stem of block", nvrtc.digest(*SOURCES), shape, case.batch, case.dtype, dense.algorithm)
    return start if search.fastest(runs, key) == "wgmma" else None


def _fits(program: Program, case: Case) -> bool:
    """Whether the network starts with a layer and a pooling that the kernel takes, here."""
    if not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] != 9:
        return False
    if len(program.steps) < 2 or not isinstance(program.steps[0].op, Conv):
        return False
    first, second = program.steps[:2]
    conv = _first(program)
    alone = second.inputs == (first.output,) and program.last_use()[first.output] == 1
    which = stem_takes(conv, geometry(conv), kind_of(case.dtype, sparse=False), second.op)
    return alone and conv.output_size[0] % CHANNELS == 0 and which == "stem_pool"


def _start(program: Program, case: Case) -> Start:
    conv, kind = _first(program), kind_of(case.dtype, sparse=False)
    if kind.planes == 1:
        image, result = 1.0, 1.0
    else:
        only = dataclasses.replace(program, steps=program.steps[:1], result=program.steps[0].output)
        peaks = calibrate(only, case)
        image, result = (power_for(peaks[n].peak) for n in (0, only.result))
    stem = Stem(conv, kind, case.device, image, result, pool=True)

    def run(x: Tensor) -> Tensor:
        packed = stem.run(x)
        return from_planes(packed, result) if kind.planes == 2 else packed.permute(0, 3, 1, 2)

    return Start(run, LoweredConv(run, stem.stored_bytes, algorithm=stem.algorithm))


def _first(program: Program) -> Conv:
    conv = program.steps[0].op
    assert isinstance(conv, Conv)
    return conv

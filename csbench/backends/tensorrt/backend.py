"""`tensorrt`: dense networks and 2:4 sparsity by NVIDIA's TensorRT, where it is installed."""

from __future__ import annotations

import importlib
import importlib.util

import torch

from csbench.backends.base import TORCH_DTYPE, LoweredConv, LoweredNetwork
from csbench.backends.tensorrt import release
from csbench.backends.tensorrt.engine import Engine
from csbench.core.case import DTYPES, Case
from csbench.core.record import LayerReport
from csbench.graph.program import Conv, Program
from csbench.kernels import two_of_four


class TensorRt:
    """A whole network as one engine; TensorRT itself decides layer by layer what runs sparse.

    Chosen by name only: an engine takes minutes to build.
    """

    name = "tensorrt"
    patterns = frozenset({"dense", "nm"})
    devices = frozenset({"cuda"})
    dtypes = frozenset(DTYPES)

    def missing(self, device: str) -> str | None:
        if importlib.util.find_spec("tensorrt") is None:
            return f"no tensorrt; {release.INSTALL}"
        if not torch.cuda.is_available():
            return "no CUDA device"
        lack = release.why_not(str(importlib.import_module("tensorrt").__version__))
        return None if lack is None else f"{lack}; {release.INSTALL}"

    def why_not(self, conv: Conv, case: Case) -> str | None:
        if conv.pattern is not None and not two_of_four.fits(conv.weight):
            return f"tensorrt knows 2:4 alone; {conv.pattern} keeps more than 2 of some 4"
        return None

    def lower(self, conv: Conv, case: Case) -> LoweredConv:
        """An engine of one layer; where it multiplies zeros all the same, that is said."""
        sizes = [conv.input_size, conv.output_size] if conv.residual else [conv.input_size]
        sparse = conv.pattern is not None
        engine = Engine(lambda t, inputs: t.convolution(conv, *inputs), sizes, case, sparse=sparse)
        report = _report(conv, engine, case)
        return LoweredConv(
            run=engine, weight_bytes=report.bytes, algorithm=report.algorithm,
            ran_dense=report.reason,
        )  # fmt: skip

    def lower_network(self, program: Program, case: Case) -> LoweredNetwork:
        """The whole network as one engine; raises BackendError for a step without a layer."""
        sparse = any(conv.pattern is not None for conv in program.convolutions)
        sizes = [program.input_size]
        engine = Engine(lambda t, inputs: t.program(program, *inputs), sizes, case, sparse=sparse)
        reports = tuple(_report(conv, engine, case) for conv in program.convolutions)
        return LoweredNetwork(run=engine, layers=reports)


def _report(conv: Conv, engine: Engine, case: Case) -> LayerReport:
    """What the engine says that it runs in a layer."""
    tactic, item = engine.tactic(conv.name), TORCH_DTYPE[case.dtype].itemsize
    weights, reason = conv.weight.numel(), None
    if conv.pattern is None:
        reason = "it carries no pattern"
    elif "sparse" not in tactic.lower():
        reason = f"tensorrt chose a dense kernel: {tactic or 'it does not say which'}"
    # Of 2:4 half of the values is stored, and two bits for each that say where it stood.
    half = weights * item // 2 + weights // 8
    return LayerReport(
        name=conv.name, ran="dense" if reason else "sparse", reason=reason,
        bytes=weights * item if reason else half, algorithm=tactic or None,
        flops=case.batch * (conv.dense_flops if reason else conv.sparse_flops),
    )  # fmt: skip

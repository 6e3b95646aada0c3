"""`inductor`: the dense network through torch.compile, plainly and with all of its searches on.

A plain compile of each chooses between the two layouts. A search times each kernel by itself, and
may choose what is slower in the network: so the whole networks are timed too, and the faster runs.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.util
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from csbench.backends.base import Inside, LoweredConv, LoweredNetwork, alike, as_it_is
from csbench.backends.cpu.timing import fastest
from csbench.backends.dense.algorithms import FORMATS, TORCH_DTYPE, Layout, precision
from csbench.backends.dense.cudnn_layer import key_of
from csbench.core.case import Case
from csbench.core.record import LayerReport
from csbench.graph.program import Conv, Program
from csbench.kernels import search

Name = TypeVar("Name", bound=str)
Options = dict[str, str | int | bool | Callable[..., Any]]
Way = Callable[[], tuple[Inside, tuple[Tensor, ...]]]  # compiled at the first call, with its inputs
# Without its own CUDA graphs: csbench captures every backend alike. Freezing lets the compiler
# choose the layout of the weights.
PLAIN: Options = {"freezing": True, "triton.cudagraphs": False}
# max-autotune: minutes for a network on a GPU.
OPTIONS: Options = {**PLAIN, "max_autotune": True, "coordinate_descent_tuning": True}
_MOST = 2**20  # compilations of one function


class Inductor:
    """Dense convolutions compiled by TorchInductor, on GPUs (Triton) and CPUs (C++)."""

    name = "inductor"
    patterns = frozenset({"dense"})
    devices = frozenset({"cuda", "cpu"})
    dtypes = frozenset({"fp32", "tf32", "fp16", "bf16"})
    device_dtypes: ClassVar = {"cpu": frozenset({"fp32", "fp16", "bf16"})}

    def missing(self, device: str) -> str | None:
        if device == "cpu":
            found = shutil.which("g++") or shutil.which("clang++")
            return None if found else "no C++ compiler on the PATH; install g++"
        if not torch.cuda.is_available():
            return "no CUDA device"
        found_triton = importlib.util.find_spec("triton")
        return None if found_triton else "no triton; pip install triton"

    def why_not(self, conv: Conv, case: Case) -> str | None:
        if case.device == "cpu" and case.dtype == "tf32":
            return "CPUs have no tf32"
        return None

    def lower(self, conv: Conv, case: Case) -> LoweredConv:
        module = _Fused(conv)
        weight_bytes = conv.weight.numel() * TORCH_DTYPE[case.dtype].itemsize
        sizes = [conv.input_size, conv.output_size] if conv.residual else [conv.input_size]
        compiled, how = _compiled(module, [conv], sizes, case)
        return LoweredConv(run=compiled, weight_bytes=weight_bytes, algorithm=how, inside=compiled)

    def lower_network(self, program: Program, case: Case) -> LoweredNetwork:
        """The whole program compiled at once, so that what lies between convolutions fuses too."""
        network = _Network(program)
        run, how = _compiled(network, program.convolutions, [program.input_size], case)
        reports = tuple(
            LayerReport(
                name=conv.name, ran="dense", flops=conv.dense_flops * case.batch,
                bytes=conv.weight.numel() * TORCH_DTYPE[case.dtype].itemsize,
                algorithm=how,
            )
            for conv in program.convolutions
        )  # fmt: skip
        return LoweredNetwork(run=run, layers=reports)


class _Fused(nn.Module):
    """One fused convolution as torch would write it."""

    def __init__(self, conv: Conv) -> None:
        super().__init__()
        self.activation = conv.activation
        self.shape = (conv.stride, conv.padding, conv.dilation, conv.groups)
        self.weight, self.bias = nn.Parameter(conv.weight), nn.Parameter(conv.bias)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        y = F.conv2d(x, self.weight, self.bias, *self.shape)
        if residual is not None:
            y = y + residual
        if self.activation == "relu":
            return F.relu(y)
        return F.relu6(y) if self.activation == "relu6" else y


class _Network(nn.Module):
    def __init__(self, program: Program) -> None:
        super().__init__()
        self.steps, self.result = program.steps, program.result
        self.convolutions = nn.ModuleList(_Fused(conv) for conv in program.convolutions)

    def forward(self, x: Tensor) -> Tensor:
        convolutions = iter(self.convolutions)
        values = {0: x}
        for step in self.steps:
            op = next(convolutions) if isinstance(step.op, Conv) else step.op
            values[step.output] = op(*(values[n] for n in step.inputs))
        return values[self.result]


def _compiled(
    module: nn.Module, convs: Sequence[Conv], sizes: list[tuple[int, int, int]], case: Case
) -> tuple[Inside, str]:
    """Compiled for inputs of the given sizes in the way that is fastest, and that way's name."""
    given = [torch.randn(case.batch, *size, device=case.device) for size in sizes]
    key = (torch.__version__, [key_of(conv, case) for conv in convs])

    def way(layout: Layout, options: Options) -> Way:
        return functools.cache(partial(_in_layout, module, FORMATS[layout], given, case, options))

    layouts = {layout: way(layout, PLAIN) for layout in FORMATS}
    layout, _ = _fastest(layouts, ("inductor's layout", *key), case)
    ways = {"plain": layouts.pop(layout), "max-autotune": way(layout, OPTIONS)}
    layouts.clear()  # the other's weights need not be held while the search runs
    how, failed = _fastest(ways, ("inductor's search", *key), case)
    names = (f"torch.compile, {layout}, {how}", *(f"{name} failed" for name in failed))
    return ways[how]()[0], ", ".join(names)


def _fastest(
    ways: Mapping[Name, Way], key: tuple[object, ...], case: Case
) -> tuple[Name, list[Name]]:
    """The way that takes least time on inputs of its own, and those that have none."""

    def run(way: Way) -> object:
        inside, own = way()
        return inside.run(*own)

    runs: dict[str, search.Run] = {name: partial(run, way) for name, way in ways.items()}
    ran = search.ranking(runs, key) if case.device == "cuda" else [fastest(runs), *ways]
    return next(name for name in ways if name == ran[0]), [n for n in ways if n not in ran]


def _in_layout(
    module: nn.Module, memory: torch.memory_format, given: list[Tensor], case: Case,
    options: Options,
) -> tuple[Inside, tuple[Tensor, ...]]:  # fmt: skip
    """Compiled for one layout of inputs and weights, and called once: compiling is lazy.

    With the given inputs in that layout.
    """
    kind = TORCH_DTYPE[case.dtype]
    placed: Any = copy.deepcopy(module).to(case.device, kind)
    compiled: Any = torch.compile(
        placed.to(memory_format=memory).eval(), options=options, dynamic=False
    )
    exactly = partial(precision, case.dtype) if case.device == "cuda" else contextlib.nullcontext

    def run(*tensors: Tensor) -> Tensor:
        with torch.no_grad(), exactly():
            result: Tensor = compiled(*tensors)
        return result

    enter = alike(lambda t: t.to(kind).contiguous(memory_format=memory))
    own = enter(*given)
    lift_limits()
    run(*own)
    return Inside(enter, run, as_it_is), own


def lift_limits() -> None:
    """Compile the same code however often, for other networks, shapes and settings.

    Past its limit torch would go on without compiling, and say so in a warning only. For the rest
    of the process, since a later call compiles too where torch's own settings changed.
    """
    settings: Any = torch._dynamo.config
    settings.cache_size_limit = settings.accumulated_cache_size_limit = _MOST

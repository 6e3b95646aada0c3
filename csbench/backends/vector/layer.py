"""One convolution for the gather kernels: its weights on the device and its plan."""

from __future__ import annotations

from collections.abc import Hashable
from functools import cached_property, partial
from math import prod

import torch
from torch import Tensor

from csbench.backends.vector.units import in_runs
from csbench.graph.program import Conv
from csbench.kernels import nvrtc, search
from csbench.kernels.gather import launch
from csbench.kernels.gather.candidates import Load, candidates
from csbench.kernels.gather.geometry import Geometry, Shape, geometry
from csbench.kernels.gather.layout import WIDE, Activation, Layout, Unfolding
from csbench.kernels.gather.pack import Units, by_row
from csbench.kernels.gather.tile import Kind, Plan, options
from csbench.kernels.gather.weights import Weights

MAX_STRIDE, MAX_OFFSET, MAX_ELEMENTS = 8, 2**15, 2**31 - 1  # of the copy engine, 16 and 31 bits
_SOURCE = "gather/conv.cu"


def kind_of(dtype: str) -> Kind:
    """What the kernels compute with in a precision: two fp16 planes for fp32 and tf32."""
    return Kind(planes=2 if dtype in ("fp32", "tf32") else 1, bf16=dtype == "bf16")


def numbers(kind: Kind) -> torch.dtype:
    """The type of the planes."""
    return torch.bfloat16 if kind.bf16 else torch.float16


def shape_of(conv: Conv, images: int) -> Shape:
    """The layer's shape as the kernels take it."""
    cout, _, kh, kw = conv.weight.shape
    return Shape(
        images, conv.input_size[0], cout, conv.input_size[1:], conv.output_size[1:], (kh, kw),
        conv.stride, conv.padding, conv.dilation,
    )  # fmt: skip


def why_not_at_all(conv: Conv, images: int) -> str | None:
    """The reason why not even the dense form of the kernel takes this layer."""
    if conv.groups != 1:
        return f"the kernel takes no grouped convolutions; this layer has {conv.groups} groups"
    reach = max(
        d * (k - 1) + p
        for d, k, p in zip(conv.dilation, conv.weight.shape[2:], conv.padding, strict=True)
    )
    if max(conv.stride) > MAX_STRIDE or reach >= MAX_OFFSET:
        return f"the copy engine takes strides to {MAX_STRIDE} and windows to {MAX_OFFSET} pixels"
    s = shape_of(conv, images)
    widened = s.cin * s.input.columns
    if not s.input.along_images:  # as it is unfolded
        widened = max(widened, s.cin * s.unfolding.columns(s.input))
    numbers = max(widened, s.cout * s.output.columns, 64 * prod(geometry(s).blocks))
    if max(numbers, 8 * conv.weight.numel()) > MAX_ELEMENTS:
        return f"the kernel addresses 2^31 numbers; this layer at batch {images} has more"
    return None


class Layer:
    """A layer's weights on the device; `run` maps activations to an activation.

    With two planes, `scales` are those of x, residual and result: numbers are stored times them.
    With an `unfolding` the result is stored as a layer after it reads it, too.
    """

    def __init__(
        self, conv: Conv, units: Units, kind: Kind, images: int, device: str,
        scales: tuple[float, float, float] = (1, 1, 1), unfolding: Unfolding | None = None,
    ) -> None:  # fmt: skip
        self.unfolding = unfolding
        self.kind, self.shape, self.relu = kind, shape_of(conv, images), conv.activation != "none"
        self.geometry: Geometry = geometry(self.shape)
        self.weights = Weights(
            units, self.geometry, self.shape.window, kind.planes, numbers(kind), device
        )
        x, residual, out = scales
        self.unscale = (self.weights.unscale * (out / x)).to(device)
        self.bias = (by_row(conv.bias, units) * out).to(device)
        six = conv.activation == "relu6"
        self.limit = torch.tensor(6.0 * out, device=device) if six else None
        self.residual, self.residual_scale = conv.residual, out / residual
        # |result| <= gain * max|x| + bias_peak (+ max|residual|)
        self.gain = float(conv.weight.abs().flatten(1).sum(1).max())
        self.bias_peak = float(conv.bias.abs().max())
        self.in_runs = in_runs(conv)
        self.device, self.plan = device, next(iter(self.plans.values()))

    @cached_property
    def plans(self) -> dict[str, Plan]:
        """The plans worth timing, by name."""
        units, boxes = self.weights.units, self.weights.total_boxes
        density = len(units.columns) / (units.count * boxes * WIDE)
        load = Load(
            units.count, units.size, prod(self.geometry.blocks), boxes, density, self.residual,
            self.shape.input.inner == WIDE, self.weights.records,
        )  # fmt: skip
        if window := self.shape.window:
            windows = prod(self.geometry.windowed(window).blocks)
            load = load._replace(window=prod(window), windows=windows)
        return candidates(self.kind, load, launch.processors(torch.cuda.current_device()))

    @property
    def signature(self) -> Hashable:
        """What decides the time of its plans; layers of equal signature choose alike."""
        units = self.weights.units
        return (
            self.kind, self.shape, units.size, units.count, round(units.density, 3), self.residual,
            self.relu, self.limit is not None, self.unfolding, tuple(sorted(self.plans)),
            *(["in runs"] if self.in_runs else []),  # which take fewer records
        )  # fmt: skip

    def ranked(self) -> list[str]:
        """Names of the plans from fast to slow on random activations (measured, remembered)."""
        plans = self.plans
        x = self._random(self.shape.cin, self.shape.input)
        added = self._random(self.shape.cout, self.shape.output) if self.residual else None
        runs = {name: partial(self.run_with, plan, x, added) for name, plan in plans.items()}
        unfold = self.unfolding is not None
        jobs = [
            (_SOURCE, options(self.kind, p.tile, self.geometry.swizzled, unfold))
            for p in plans.values()
        ]
        key = ("gather", nvrtc.digest(_SOURCE), self.signature)
        return search.ranking(runs, key, partial(nvrtc.compile_all, jobs))

    def choose(self) -> None:
        """Take the plan that is fastest for the layer alone."""
        self.settle(self.ranked()[0])

    def settle(self, name: str) -> None:
        """Take the plan of this name, and let go of what only others need."""
        self.plan = self.plans[name]
        self.weights.keep(self.plan)

    def _random(self, channels: int, layout: Layout) -> Activation:
        x = Activation.empty(
            self.kind.planes, numbers(self.kind), channels, layout, torch.device(self.device)
        )
        x.data.normal_()
        x.data[1:] *= 2.0**-11
        return x

    @property
    def algorithm(self) -> str:
        """A short line for the records."""
        split = "3 fp16 products" if self.kind.planes == 2 else "bf16" if self.kind.bf16 else "fp16"
        return f"gather mma {split}, units of {self.weights.units.size}, tile {self.plan}"

    @property
    def bytes(self) -> int:
        """Weights and where they belong, as stored for the plan."""
        scales = 4 * (self.unscale.numel() + self.bias.numel() + self.weights.rows.numel())
        return self.weights.held(self.plan).bytes + scales

    def run(self, x: Activation, residual: Activation | None = None) -> Activation:
        """The fused convolution."""
        return self.run_with(self.plan, x, residual)

    def run_with(self, plan: Plan, x: Activation, residual: Activation | None) -> Activation:
        """The same by a plan of the caller's choice."""
        scales = (self.unscale, self.bias, self.residual_scale, self.limit)
        return self.convolve(plan, x, residual, *scales)

    def convolve(
        self, plan: Plan, x: Activation, residual: Activation | None, scale: Tensor, bias: Tensor,
        residual_scale: float = 1.0, limit: Tensor | None = None,
    ) -> Activation:  # fmt: skip
        """The same with scale, bias and the end of ReLU6 of the caller's."""
        return launch.convolve(
            self.kind, plan, self.shape, self.geometry, x,
            self.weights.held(plan), self.weights.rows, scale, bias, relu=self.relu, limit=limit,
            residual=residual, residual_scale=residual_scale, unfolding=self.unfolding,
        )  # fmt: skip

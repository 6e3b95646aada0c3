"""Backends that cheat or fail, one per reason for which the conformance kit must reject them."""

from __future__ import annotations

import re
import threading
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from csbench.backends.base import LoweredConv, LoweredNetwork
from csbench.backends.chain import chain
from csbench.core.case import Case
from csbench.core.record import LayerReport
from csbench.graph.program import Conv, Program


class Honest:
    """A right answer, which the cheats spoil."""

    name = "honest"
    patterns = frozenset({"dense", "cs", "block"})
    devices = frozenset({"cpu"})
    dtypes = frozenset({"fp32", "fp16", "bf16"})

    def __init_subclass__(cls) -> None:
        """Each has a name of its own, which its report bears: `cached-by-shape`."""
        cls.name = re.sub(r"(?<!^)(?=[A-Z])", "-", cls.__name__).lower()

    def missing(self, device: str) -> str | None:
        return None

    def why_not(self, conv: Conv, case: Case) -> str | None:
        return "it has groups" if conv.groups > 1 else None

    def lower(self, conv: Conv, case: Case) -> Any:
        def run(x: Tensor, residual: Tensor | None = None) -> Tensor:
            return self.compute(conv, case, x, residual)

        return LoweredConv(run)

    def compute(self, conv: Conv, case: Case, x: Tensor, residual: Tensor | None) -> Any:
        return right(conv, x, residual)


def right(conv: Conv, x: Tensor, residual: Tensor | None = None) -> Tensor:
    """The fused convolution in float32, rounded to the input's type; zeros are left out."""
    if conv.pattern is None:
        return dense(conv, x, residual)
    windows = F.unfold(x.float(), conv.weight.shape[2:], conv.dilation, conv.padding, conv.stride)
    kept = conv.weight.flatten(1).to_sparse()
    y = torch.stack([kept @ image for image in windows]) + conv.bias[:, None]
    return finished(conv, y.reshape(len(x), *conv.output_size), x, residual)


def dense(conv: Conv, x: Tensor, residual: Tensor | None = None) -> Tensor:
    """The same with every zero multiplied."""
    y = F.conv2d(
        x.float(), conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups
    )
    return finished(conv, y, x, residual)


def finished(conv: Conv, y: Tensor, x: Tensor, residual: Tensor | None) -> Tensor:
    y = y if residual is None else y + residual.float()
    y = F.relu(y) if conv.activation == "relu" else y
    return (F.relu6(y) if conv.activation == "relu6" else y).to(x.dtype)


class CachedByShape(Honest):
    """Remembers its result."""

    def __init__(self) -> None:
        self.known: dict[Any, Tensor] = {}

    def key(self, conv: Conv, x: Tensor) -> Any:
        return (conv.name, x.shape, x.stride())

    def compute(self, conv: Conv, case: Case, x: Tensor, residual: Tensor | None) -> Tensor:
        key = self.key(conv, x)
        if key not in self.known:
            self.known[key] = right(conv, x, residual)
        return self.known[key]


class CachedByAddress(CachedByShape):
    """Remembers its result for a tensor, also when its numbers have changed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []  # kept alive, so that no address comes twice

    def key(self, conv: Conv, x: Tensor) -> Any:
        self.seen.append(x)
        return (conv.name, x.data_ptr())


class Deferred(Tensor):
    """A tensor that computes when it is first used."""

    work: Any

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        done = [a.work() if isinstance(a, Deferred) else a for a in args]
        return function(*done, **(kwargs or {}))


class Lazy(Honest):
    """Returns at once and computes when somebody looks."""

    def compute(self, conv: Conv, case: Case, x: Tensor, residual: Tensor | None) -> Tensor:
        out = torch.empty(x.shape[0], *conv.output_size).as_subclass(Deferred)
        out.work = lambda: right(conv, x, residual)
        return out


class LeftBehind(Honest):
    """Returns at once and lets a thread finish: on a GPU, another stream."""

    def compute(self, conv: Conv, case: Case, x: Tensor, residual: Tensor | None) -> Tensor:
        result = right(conv, x, residual)
        out = torch.empty_like(result)
        out.zero_()
        threading.Timer(0.1, lambda: out.copy_(result)).start()
        return out


class NeverWritten(Honest):
    """Lucky with what the memory held."""

    def compute(self, conv: Conv, case: Case, x: Tensor, residual: Tensor | None) -> Tensor:
        return torch.empty(x.shape[0], *conv.output_size, dtype=x.dtype)


class LastRowUnwritten(Honest):
    """Leaves a ragged edge to luck."""

    def compute(self, conv: Conv, case: Case, x: Tensor, residual: Tensor | None) -> Tensor:
        result = right(conv, x, residual)
        out = torch.empty_like(result)
        whole = result.shape[1] // 8 * 8
        out[:, :whole] = result[:, :whole]
        return out


class WrongShape(Honest):
    """Forgets the image dimensions of a linear layer."""

    def compute(self, conv: Conv, case: Case, x: Tensor, residual: Tensor | None) -> Tensor:
        out = right(conv, x, residual)
        return out.flatten(1) if out.shape[2:] == (1, 1) else out


class WrongType(Honest):
    """Answers in float32 when asked in half."""

    def compute(self, conv: Conv, case: Case, x: Tensor, residual: Tensor | None) -> Tensor:
        return right(conv, x, residual).float()


class WrongStride(Honest):
    """Channels-last numbers under the strides of a contiguous tensor."""

    def compute(self, conv: Conv, case: Case, x: Tensor, residual: Tensor | None) -> Tensor:
        out = right(conv, x, residual)
        return out.permute(0, 2, 3, 1).reshape(out.shape)


class IgnoresStrides(Honest):
    """Reads the input's memory as if it were contiguous."""

    def compute(self, conv: Conv, case: Case, x: Tensor, residual: Tensor | None) -> Tensor:
        if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
            x = x.permute(0, 2, 3, 1).reshape(x.shape)
        return right(conv, x, residual)


class WrongPermutation(Honest):
    """Forgets to undo the shuffle of output channels."""

    def compute(self, conv: Conv, case: Case, x: Tensor, residual: Tensor | None) -> Tensor:
        out = right(conv, x)
        out = out.roll(1, dims=1)
        return out if residual is None else right(conv, x, residual).roll(1, dims=1)


class OffByAThousandth(Honest):
    """A tenth of a percent too large."""

    def compute(self, conv: Conv, case: Case, x: Tensor, residual: Tensor | None) -> Tensor:
        wide = right(conv, x.float(), residual)
        return (wide * 1.001).to(x.dtype)


class RightOnOneShape(Honest):
    """Takes every kernel for 1x1."""

    def compute(self, conv: Conv, case: Case, x: Tensor, residual: Tensor | None) -> Tensor:
        out = right(conv, x, residual)
        return out if conv.weight.shape[2:] == (1, 1) else out.flip(3) + 1


class SharedOutput(Honest):
    """One buffer for all results."""

    def lower(self, conv: Conv, case: Case) -> Any:
        buffer = torch.empty(case.batch, *conv.output_size)
        return lambda x, residual=None: buffer.copy_(right(conv, x, residual))


class WritesToItsInput(Honest):
    """Adds the residual in place, into the residual."""

    def compute(self, conv: Conv, case: Case, x: Tensor, residual: Tensor | None) -> Tensor:
        out = right(conv, x, residual)
        if residual is not None:
            residual.copy_(out)
        return out


class Random(Honest):
    """Sums in another order every time."""

    def compute(self, conv: Conv, case: Case, x: Tensor, residual: Tensor | None) -> Tensor:
        return right(conv, x, residual) * (1 + 3e-6 * torch.rand(()))


class RefusesEverything(Honest):
    def why_not(self, conv: Conv, case: Case) -> str | None:
        return "it is not Tuesday"


class RefusesHalf(Honest):
    """Declares precisions that it runs on another device only."""

    def why_not(self, conv: Conv, case: Case) -> str | None:
        return None if case.dtype == "fp32" else "halves run on GPUs"


class RefusesSilently(Honest):
    def why_not(self, conv: Conv, case: Case) -> Any:
        return "" if conv.groups > 1 else None


class Raises(Honest):
    def compute(self, conv: Conv, case: Case, x: Tensor, residual: Tensor | None) -> Tensor:
        if residual is not None:
            raise NotImplementedError("no residuals yet")
        return right(conv, x)


class UnknownPrecision(Honest):
    dtypes = frozenset({"fp32", "fp8"})


class NotReady(Honest):
    def missing(self, device: str) -> str | None:
        return "no licence; buy one"


class MultipliesZeros(Honest):
    """Declares patterns and runs dense."""

    def compute(self, conv: Conv, case: Case, x: Tensor, residual: Tensor | None) -> Tensor:
        return dense(conv, x, residual)


class HonestNetwork(Honest):
    """A whole-network path that is right."""

    def lower_network(self, program: Program, case: Case) -> LoweredNetwork | None:
        layers = tuple(
            LayerReport(name=c.name, ran="sparse" if c.pattern else "dense")
            for c in program.convolutions
        )
        return LoweredNetwork(lambda x: self.image(program, x), layers)

    def image(self, program: Program, x: Tensor) -> Tensor:
        return chain(program, [partial(right, c) for c in program.convolutions])(x)


class SaysSparse(HonestNetwork):
    """A whole-network path that says sparse and runs dense."""

    def image(self, program: Program, x: Tensor) -> Tensor:
        return chain(program, [partial(dense, c) for c in program.convolutions])(x)


class SilentNetwork(HonestNetwork):
    """Does not say what ran."""

    def lower_network(self, program: Program, case: Case) -> LoweredNetwork | None:
        return LoweredNetwork(lambda x: self.image(program, x), ())


class CachedNetwork(HonestNetwork):
    """Remembers the first image's result."""

    def __init__(self) -> None:
        self.known: dict[int, Tensor] = {}

    def image(self, program: Program, x: Tensor) -> Tensor:
        return self.known.setdefault(len(x), super().image(program, x))

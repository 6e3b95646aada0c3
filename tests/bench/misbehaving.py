"""Backends that go wrong in one way each: `tests/bench/misbehaving.py:Hangs`."""

from __future__ import annotations

import os
import signal
import threading

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from csbench.backends.base import LoweredConv, LoweredNetwork
from csbench.backends.chain import chain
from csbench.backends.fake import Fake
from csbench.core.case import Case
from csbench.core.record import LayerReport
from csbench.graph import reference
from csbench.graph.program import Conv, Program


class Wrapped(Fake):
    """Right and sparse, until a subclass changes what a layer gives."""

    name = "wrapped"
    patterns = frozenset({"cs"})

    def lower(self, conv: Conv, case: Case) -> LoweredConv:
        packed = conv.weight.flatten(1).double().to_sparse_csr()

        def run(x: Tensor, residual: Tensor | None = None) -> Tensor:
            pixels = F.unfold(
                x.double(), conv.weight.shape[2:], conv.dilation, conv.padding, conv.stride
            )
            y = torch.stack([packed @ image for image in pixels]) + conv.bias[:, None]
            y = y.reshape(len(x), *conv.output_size)
            y = y if residual is None else y + residual
            return self.change((y.relu() if conv.activation == "relu" else y).to(x.dtype))

        return LoweredConv(run, 4 * int(conv.weight.count_nonzero()), 0, "wrapped")

    def change(self, out: Tensor) -> Tensor:
        return out


class OffByALittle(Wrapped):
    def change(self, out: Tensor) -> Tensor:
        return out * 1.001


class GivesNan(Wrapped):
    def change(self, out: Tensor) -> Tensor:
        return torch.where(out == out.max(), torch.nan, out)


class LeavesItsOutputUnwritten(Wrapped):
    def change(self, out: Tensor) -> Tensor:
        fresh = torch.empty_like(out)
        fresh[:, 1:] = out[:, 1:]
        return fresh


class GoesWrongLater(Wrapped):
    """Right for the first check, wrong once it is being timed."""

    calls = 0

    def change(self, out: Tensor) -> Tensor:
        self.calls += 1
        return out if self.calls < 30 else out * 1.1


class Raises(Wrapped):
    def change(self, out: Tensor) -> Tensor:
        raise RuntimeError("kernel launch failed\nwith more lines below")


class RunsOutOfMemory(Wrapped):
    def change(self, out: Tensor) -> Tensor:
        raise MemoryError("no room for 4 TiB")


class Hangs(Wrapped):
    def change(self, out: Tensor) -> Tensor:
        threading.Event().wait()
        return out


class Crashes(Wrapped):
    def change(self, out: Tensor) -> Tensor:
        os.write(2, b"segmentation violation in kernel 7\n")
        os.abort()


class IsKilled(Wrapped):
    """As the system does when memory runs out."""

    def change(self, out: Tensor) -> Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        return out


class Chatters(Wrapped):
    """Writes to stdout, where the replies to the parent go."""

    def change(self, out: Tensor) -> Tensor:
        print('{"type": "Done"}', flush=True)
        os.write(1, b"from C\n")
        return out


class IsMissing(Wrapped):
    def missing(self, device: str) -> str | None:
        return "no compiler; install g++"


class RunsOneLayerOnly(Wrapped):
    def why_not(self, conv: Conv, case: Case) -> str | None:
        return None if conv.name == "first" else "only layers called first"


class RunsNoLayer(Wrapped):
    def why_not(self, conv: Conv, case: Case) -> str | None:
        return "the weather"


class InterruptsItsParent(Wrapped):
    """Presses Ctrl-C for the user, in the middle of a case."""

    def change(self, out: Tensor) -> Tensor:
        os.kill(os.getppid(), signal.SIGINT)
        threading.Event().wait()
        return out


class RunsDense(Fake):
    """Says sparse and multiplies all the zeros."""

    name = "runs-dense"


class SaysSparse(Wrapped):
    """A whole-network path that says sparse and multiplies all the zeros."""

    def lower_network(self, program: Program, case: Case) -> LoweredNetwork:
        return LoweredNetwork(
            lambda x: reference.run(program, x, torch.float32), says_sparse(program)
        )


def says_sparse(program: Program) -> tuple[LayerReport, ...]:
    return tuple(
        LayerReport(name=c.name, ran="sparse" if c.pattern else "dense", flops=1)
        for c in program.convolutions
    )


class Remembers(Wrapped):
    """Computes the network once for each input, told by its address, and counts few FLOPs."""

    computed = 0  # of all instances: tests build a clock of it

    def lower_network(self, program: Program, case: Case) -> LoweredNetwork:
        known: dict[object, tuple[Tensor, Tensor]] = {}  # the input too, or its address comes again
        compute = chain(program, [self.lower(conv, case) for conv in program.convolutions])

        def run(x: Tensor) -> Tensor:
            if (key := self.key(x)) not in known:
                Remembers.computed += 1
                known[key] = (compute(x), x)
            return known[key][0]

        return LoweredNetwork(run, says_sparse(program))

    def key(self, x: Tensor) -> object:
        return x.data_ptr()


class RemembersNumbers(Remembers):
    """Tells inputs by what they hold."""

    def key(self, x: Tensor) -> object:
        return x.sum().item()

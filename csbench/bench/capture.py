"""What is timed: a network or layer on rotating inputs, as captured CUDA graphs where possible."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from csbench.backends.base import Inside, as_it_is
from csbench.kernels.graphs import forget_failed_capture

Inputs = tuple[Tensor, ...]

_WARM_UP_RUNS = 3  # before capture: libraries choose algorithms and allocate at the first runs


class Replay:
    """Calling it runs the next input; on a GPU each input has a graph of its own.

    Where `inside` is given, only that is timed: activations are converted before. `mode`
    says whether graphs are replayed; `note` why not, where a GPU would not capture.
    """

    def __init__(
        self, run: Callable[..., Tensor], inputs: Sequence[Inputs], inside: Inside | None = None
    ) -> None:
        self.mode: Literal["graph", "eager"] = "eager"
        self.note: str | None = None
        self._inside = inside or Inside(_as_they_are, run, as_it_is)
        self._inputs = [tuple(tensor.clone() for tensor in one) for one in inputs]
        self._entered = [self._inside.enter(*one) for one in self._inputs]
        self._graphs: list[torch.cuda.CUDAGraph] = []
        self._outputs: list[Any] = []
        self._turn = -1
        if self.on_gpu:
            self._capture()

    @property
    def on_gpu(self) -> bool:
        return self._inputs[0][0].is_cuda

    def __call__(self) -> None:
        self._turn = (self._turn + 1) % len(self._inputs)
        if self._graphs:
            self._graphs[self._turn].replay()
        else:
            self._inside.run(*self._entered[self._turn])

    def renew(self, inputs: Inputs) -> None:
        """Write new numbers into the memory that the next call reads."""
        self._write((self._turn + 1) % len(self._inputs), inputs)

    @property
    def turns(self) -> int:
        """Different things that calls run: graphs, or one function."""
        return len(self._graphs) or 1

    def fresh(self, inputs: Inputs, turn: int = 0) -> Tensor:
        """The output for new inputs, by the very thing that is timed, in the memory that it reads.

        A result remembered for that memory is then wrong. A graph's output is filled with NaN
        before: what it does not write is seen.
        """
        self._write(turn, inputs)
        own = self._entered[turn]
        if not self._graphs:
            return self._inside.leave(self._inside.run(*own), *own)
        for tensor in tensors_of(self._outputs[turn]):
            tensor.fill_(torch.nan)
        self._graphs[turn].replay()
        return self._inside.leave(self._outputs[turn], *own).clone()

    def _write(self, turn: int, inputs: Inputs) -> None:
        for own, new in zip(self._inputs[turn], inputs, strict=True):
            own.copy_(new)
        renewed = self._inside.enter(*self._inputs[turn])
        pairs = zip(tensors_of(self._entered[turn]), tensors_of(renewed), strict=True)
        for own, new in pairs:
            own.copy_(new)

    def _capture(self) -> None:
        try:
            stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP_RUNS):
                    self._inside.run(*self._entered[0])
            torch.cuda.current_stream().wait_stream(stream)
            torch.cuda.synchronize()
            pool = torch.cuda.graph_pool_handle()
            for one in self._entered:
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=pool):
                    self._outputs.append(self._inside.run(*one))
                self._graphs.append(graph)
            self.mode = "graph"
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._graphs.clear()
            self._outputs.clear()
            forget_failed_capture()
            self.note = f"not captured as a CUDA graph: {str(error).splitlines()[0]}"


def tensors_of(value: Any) -> Iterator[Tensor]:
    """The tensors in a value, in the tuples that it is made of, and in fields of dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from tensors_of(part)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from tensors_of(getattr(value, field.name))


def _as_they_are(*inputs: Tensor) -> Inputs:
    return inputs

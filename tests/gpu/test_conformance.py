"""On a GPU the conformance kit passes our backends, and rejects work on another stream."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from csbench.backends import conformance, registry
from csbench.backends.base import LoweredConv
from csbench.core.case import DTYPES, Case
from csbench.graph.program import Conv
from tests.backends.cheats import Honest


class OnGpu(Honest):
    """A right answer in float64, on the current stream."""

    devices = frozenset({"cuda"})

    def lower(self, conv: Conv, case: Case) -> Any:
        weight, bias = (t.to(case.device).double() for t in (conv.weight, conv.bias))
        shape = (conv.stride, conv.padding, conv.dilation, conv.groups)

        def run(x: Tensor, residual: Tensor | None = None) -> Tensor:
            y = F.conv2d(x.double(), weight, bias, *shape)
            y = y if residual is None else y + residual.double()
            y = F.relu(y) if conv.activation == "relu" else y
            return (F.relu6(y) if conv.activation == "relu6" else y).to(x.dtype)

        return LoweredConv(self.spoiled(run))

    def spoiled(self, run: Any) -> Any:
        return run


class OnAnotherStream(OnGpu):
    """Waits for the current stream, and leaves its own work behind."""

    waits = True

    def spoiled(self, run: Any) -> Any:
        own = torch.cuda.Stream()

        def elsewhere(x: Tensor, *rest: Tensor) -> Tensor:
            if self.waits:
                own.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(own):
                return run(x, *rest)

        return elsewhere


class WithoutWaiting(OnAnotherStream):
    """Neither waits nor is waited for."""

    waits = False


@pytest.mark.gpu
def test_an_honest_backend_conforms_and_is_captured() -> None:
    report = conformance.run(OnGpu(), device="cuda", dtype="fp32", pattern="dense")
    assert report.reasons == ()
    stream = next(o for o in report.outcomes if o.check == "stream")
    assert stream.detail == "late inputs; 24 layers captured"


@pytest.mark.gpu
@pytest.mark.parametrize("cheat", [OnAnotherStream, WithoutWaiting])
def test_work_on_another_stream_is_rejected(cheat: type[OnGpu]) -> None:
    report = conformance.run(cheat(), device="cuda", dtype="fp32", pattern="dense")
    # A late result may be noticed before the stream itself is looked at.
    assert set(report.reasons) & {"other-stream", "unfinished"}
    assert report.outcomes[-2].check == "stream"
    assert report.outcomes[-2].reason == "other-stream"


OWN = {"csr": "unstructured", "nm-cusparselt": "nm"}  # of backends for several patterns


def ours() -> Iterator[Any]:
    """Every backend of csbench on every pattern and in every precision that it has on a GPU.

    All precisions on its own pattern, fp16 on the others: a pattern decides how weights are
    packed, and not how a precision is multiplied. Without `inductor`, which compiles for minutes:
    csbench backends test inductor.
    """
    for listed in registry.listing():
        backend, name = listed.backend, listed.entry.name
        if listed.entry.origin != "built-in" or name in ("fake", "inductor"):
            continue
        if backend is None:
            yield pytest.param(name, "dense", "fp32", id=f"{name}-broken")
        elif "cuda" in backend.devices:
            known = registry.dtypes(backend, "cuda")
            # What `masked` runs is the dense backend, which has its own tests.
            dtypes = ["fp32"] if name == "masked" else [d for d in DTYPES if d in known]
            own = OWN.get(name, min(backend.patterns))
            others = sorted(backend.patterns - {own})
            some = ["fp16"] if "fp16" in dtypes else dtypes[:1]
            for pattern, dtype in [*product([own], dtypes), *product(others, some)]:
                yield pytest.param(name, pattern, dtype, id=f"{name}-{pattern}-{dtype}")


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "pattern", "dtype"), list(ours()))
def test_our_backends_conform(name: str, pattern: str, dtype: str) -> None:
    backend = registry.get(name)
    if (missing := backend.missing("cuda")) is not None:
        pytest.skip(missing)
    report = conformance.run(backend, device="cuda", dtype=dtype, pattern=pattern)
    failed = [o for o in report.outcomes if o.status == "failed"]
    assert not failed, failed

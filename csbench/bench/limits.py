"""How fast a layer could be: ceilings measured on the device once, and the floor they set.

The floor of a layer is the larger of two times: its FLOPs at the measured rate of dense products
in its precision, and its bytes (weights as stored, activations once) at the copy bandwidth.

Of a sparse layer only the kept products count, and at the dense rate: skipping does not speed up
what is kept. Sparse tensor cores (wgmma.sp) do the products of a 2:4 layer, zeros counted, at up to
1.8 times the dense rate; half of them are kept, so the kept ones come at 0.9 of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch

from csbench.backends.base import TORCH_DTYPE
from csbench.bench.clocks import Clock, CudaClock, HostClock
from csbench.bench.sampling import sample_alone
from csbench.core.cache import measured_file, write_atomically

Ceilings = Mapping[str, float]  # copy_gb_s, fp32_tflop_s, ..., launch_us

# A time below this share of the floor is impossible; between this and 1, the ceiling was measured
# on a worse moment than the layer.
POSSIBLE = 0.8


def ceilings(device: str, env: Mapping[str, Any], again: bool = False) -> dict[str, float]:
    """The device's ceilings, from the cache when this device and torch were measured before.

    `again` measures once more and keeps the better of both: the first time may have been a bad one.
    """
    names = ("gpu", "cpu", "driver", "torch", "threads", "gpu_memory_bytes", "host")
    path = measured_file("ceilings", device, *(env.get(name) for name in names))
    try:
        known: dict[str, float] = json.loads(path.read_text())
    except (OSError, ValueError):
        known = {}
    if not known or again:
        fresh = measure(device)
        known = {name: _better(name, value, known.get(name)) for name, value in fresh.items()}
        write_atomically(path, json.dumps(known, indent=1).encode())
    return known


@torch.inference_mode()
def measure(device: str) -> dict[str, float]:
    """Copy bandwidth in GB/s, dense products in TFLOP/s, launching an empty graph in us."""
    on_gpu = device.startswith("cuda")
    clock: Clock = CudaClock() if on_gpu else HostClock()
    found = {"copy_gb_s": _copy(clock, device, 2**30 if on_gpu else 2**28)}
    size = 8192 if on_gpu else 1536
    for dtype in ("fp32", "tf32", "fp16", "bf16") if on_gpu else ("fp32", "bf16"):
        found[f"{dtype}_tflop_s"] = _product(clock, device, dtype, size)
    if on_gpu:
        found["launch_us"] = _empty_graph(clock)
    return found


def floor_ms(flops: float, size_bytes: float, dtype: str, known: Ceilings) -> float:
    """The time that a layer needs at least, by products and by bytes, in milliseconds."""
    return max(_product_ms(flops, rate(dtype, known)), _copy_ms(size_bytes, known))


def hard_floor_ms(
    flops: float, known: Ceilings, size_bytes: float = 0, replayed: bool = False
) -> float:
    """The time below which a result is impossible, by products, bytes and launching.

    Products count at the fastest rate of any precision. Bytes are those that no cache can spare
    (csbench.bench.traffic), since others may well stay in one between runs. `replayed` are graphs
    one after another, which take no less than empty ones. POSSIBLE allows for ceilings that were
    measured in a bad moment, and for reads alone, which are up to an eighth faster than the copy.
    """
    fastest = max(value for name, value in known.items() if name.endswith("_tflop_s"))
    launch_ms = known.get("launch_us", 0.0) / 1e3 if replayed else 0.0
    return POSSIBLE * max(_product_ms(flops, fastest), _copy_ms(size_bytes, known), launch_ms)


def rate(dtype: str, known: Ceilings) -> float:
    """TFLOP/s of dense products in a precision.

    An fp32 product may also come as three of tf32 or of fp16 (two halves of each number, without
    the product of the small ones), as csbench's own fp32 kernels take it.
    """
    own = known.get(f"{dtype}_tflop_s", known["fp32_tflop_s"])
    if dtype != "fp32":
        return own
    return max(own, *(known.get(f"{part}_tflop_s", 0) / 3 for part in ("tf32", "fp16")))


def _better(name: str, value: float, known: float | None) -> float:
    if known is None:
        return value
    return min(value, known) if name == "launch_us" else max(value, known)


def _product_ms(flops: float, tflop_s: float) -> float:
    return flops / tflop_s / 1e9


def _copy_ms(size_bytes: float, known: Ceilings) -> float:
    return size_bytes / known["copy_gb_s"] / 1e6


def _copy(clock: Clock, device: str, size: int) -> float:
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    return 2 * size / 1e6 / _best(clock, lambda: target.copy_(source))


def _product(clock: Clock, device: str, dtype: str, size: int) -> float:
    a = torch.randn(size, size, device=device).to(TORCH_DTYPE[dtype])
    b = torch.randn(size, size, device=device).to(TORCH_DTYPE[dtype])
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
    try:
        return 2 * size**3 / 1e9 / _best(clock, lambda: torch.mm(a, b))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _empty_graph(clock: Clock) -> float:
    """Replaying a graph of one tiny kernel: what no network can be faster than."""
    x = torch.zeros(1, device="cuda").add_(1)  # loads the kernel, which a capture may not
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x.add_(1)
    return 1e3 * _best(clock, graph.replay)


def _best(clock: Clock, run: Callable[[], object], samples: int = 7) -> float:
    """The shortest of a few samples: a ceiling is what the device can do at its best."""
    return min(sample_alone(clock, run, samples))

"""Launches of the two first-layer kernels: torch's layout in, packed activation out."""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_longlong

import torch
from torch import Tensor

from csbench.kernels import nvrtc
from csbench.kernels.wgmma.launch import PLAIN, Geometry, Window, empty, processors
from csbench.kernels.wgmma.pack import BLOCK, padded, stem_channels, tap_slots
from csbench.kernels.wgmma.tile import Kind

STEM_POOL = Window(3, 2, 1)  # the pooling that wgmma/stem_pool.cu takes along
_SHARED = 232448
_REGION = 16  # pixels squared of a block of wgmma/stem.cu
_SLOTS, _ROWS = 32, 8  # of wgmma/stem_pool.cu: slots of a line, rows of a chunk


class _StemShape(ctypes.Structure):
    _fields_ = [
        *((name, c_longlong) for name in ("n", "c", "h", "w")),
        *((name, c_int) for name in (
            "images", "height", "width", "out_height", "out_width", "tiles_x", "tiles_y",
            "blocks", "relu",
        )),
    ]  # fmt: skip


def stem(
    kind: Kind, g: Geometry, x: Tensor, weights: Tensor, scale: Tensor, bias: Tensor,
    gain: Tensor, *, relu: bool,
) -> Tensor:  # fmt: skip
    """A first convolution of NCHW x (2 to 4 channels), times gain, as a packed activation."""
    images, blocks = x.shape[0], padded(g.cout) // BLOCK
    out = empty(kind, images, *g.out_size, g.cout, x.device)
    tiles_y, tiles_x = (-(-s // _REGION) for s in g.out_size)
    shape = _StemShape(*x.stride(), images, *g.size, *g.out_size, tiles_x, tiles_y, blocks, relu)
    grid = (min(images * tiles_x * tiles_y, 2 * processors(x.device.index)), blocks)
    _kernel("stem", kind, g, x.dtype).launch(
        grid, 256, [x, out, weights, scale, bias, gain, shape],
        shared=stem_shared(kind, g), overlap=True,
    )  # fmt: skip
    return out


class _StemPoolShape(ctypes.Structure):
    _fields_ = [
        *((name, c_longlong) for name in ("n", "c", "h", "w")),
        *((name, c_int) for name in (
            "images", "height", "width", "out_height", "out_width", "final_height", "final_width",
            "strips", "chunks", "blocks", "relu", "items",
        )),
    ]  # fmt: skip


def stem_pool(
    kind: Kind, g: Geometry, x: Tensor, weights: Tensor, scale: Tensor, bias: Tensor,
    gain: Tensor, *, relu: bool,
) -> Tensor:  # fmt: skip
    """The same, and max pooling by STEM_POOL."""
    images, blocks = x.shape[0], padded(g.cout) // BLOCK
    h, w = (STEM_POOL.output(s) for s in g.out_size)
    out = empty(kind, images, h, w, g.cout, x.device)
    strips = -(-w // ((_SLOTS - tap_slots(g.kernel[1])) // 2))
    total = -(-g.out_size[0] // _ROWS)
    chunks = _chunks(images * strips, total, 2 * processors(x.device.index))
    items = images * strips * -(-total // chunks)
    shape = _StemPoolShape(
        *x.stride(), images, *g.size, *g.out_size, h, w, strips, chunks, blocks, relu, items
    )
    grid = (min(-(-items // 2), processors(x.device.index)), blocks)
    _kernel("stem_pool", kind, g, x.dtype).launch(
        grid, 384, [x, out, weights, scale, bias, gain, shape],
        shared=stem_pool_shared(kind, g), overlap=True,
    )  # fmt: skip
    return out


def _chunks(strips: int, total: int, places: int) -> int:
    """Chunks of one item: strips are cut where that fills the device better, at one more each."""

    def time(chunks: int) -> int:
        segments = -(-total // chunks)
        return -(-strips * segments // places) * (chunks + (segments > 1))

    return min(range(1, total + 1), key=lambda chunks: (time(chunks), -chunks))


def _kernel(name: str, kind: Kind, g: Geometry, plain: torch.dtype) -> nvrtc.Kernel:
    file = f"wgmma/{name}.cu"
    module = nvrtc.load(file, options=stem_options(kind, g, plain))
    return module.kernel(name)


def stem_options(kind: Kind, g: Geometry, plain: torch.dtype) -> tuple[str, ...]:
    """The compiler's -D options of both kernels."""
    values = {
        "CS_BF16": int(kind.bf16), "CS_PLANES": kind.planes, "CS_PLAIN": PLAIN[plain],
        "STEM_CHANNELS": g.cin, "STEM_H": g.kernel[0], "STEM_W": g.kernel[1],
        "STEM_STRIDE": g.stride[0], "STEM_PAD": g.padding[0],
    }  # fmt: skip
    return tuple(f"-D{name}={value}" for name, value in values.items())


def stem_shared(kind: Kind, g: Geometry) -> int:
    """Dynamic shared memory of `stem`: the region's results and the image patch."""
    channels, step = stem_channels(g.cin, g.stride[0]), (_REGION - 1) * g.stride[0]
    run = -(-g.kernel[1] * channels // 8) * 8
    pitch = -(-(step * channels + run) // 8) * 8
    return _REGION**2 * 68 * 4 + kind.planes * (step + g.kernel[0]) * pitch * 2


def stem_pool_shared(kind: Kind, g: Geometry) -> int:
    """Dynamic shared memory of `stem_pool`: weights, two results, four buffers of image lines."""
    lines = 2 * (_ROWS - 1) + g.kernel[0]
    weights = g.kernel[0] * tap_slots(g.kernel[1]) * 1024
    return 1024 + kind.planes * (weights + 2 * 8192 + 4 * (lines * 512 + 128)) + 128


def stem_fits(kind: Kind, g: Geometry) -> bool:
    """Whether `stem` takes this convolution: few channels, square steps, small enough."""
    steps = -(-g.kernel[0] * -(-g.kernel[1] * stem_channels(g.cin, g.stride[0]) // 8) // 2)
    small = steps <= 11 and 2 * stem_shared(kind, g) <= _SHARED
    return 2 <= g.cin <= 4 and _square(g) and small


def stem_pool_fits(kind: Kind, g: Geometry) -> bool:
    """Whether `stem_pool` takes this convolution, which max pooling by STEM_POOL follows."""
    small = max(g.kernel) <= 8 and stem_pool_shared(kind, g) <= _SHARED
    return 2 <= g.cin <= 4 and _square(g) and g.stride[0] == 2 and small


def _square(g: Geometry) -> bool:
    return g.stride[0] == g.stride[1] and g.padding[0] == g.padding[1] and g.dilation == (1, 1)

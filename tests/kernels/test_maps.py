"""What the driver is told of a tensor: sizes from the innermost on, strides in bytes, alignment."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
import torch

from csbench.errors import BackendError
from csbench.kernels import maps, nvrtc
from csbench.kernels.wgmma import maps as packed

HALF, BFLOAT, TFLOAT = 6, 9, 11  # CUtensorMapDataType
SWIZZLE = {0: 0, 32: 1, 64: 2, 128: 3}  # CUtensorMapSwizzle


class Driver:
    """Remembers what it is told; refuses when asked to."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.code = 0

    def cuTensorMapEncodeTiled(  # noqa: N802
        self, into: Any, numbers: int, rank: int, base: Any, extent: Any, stride: Any, box: Any,
        step: Any, interleave: int, swizzle: int, promotion: int, fill: int,
    ) -> int:  # fmt: skip
        assert ctypes.cast(into, ctypes.c_void_p).value % 64 == 0  # type: ignore[operator]
        assert (len(extent), len(stride), len(box), len(step)) == (rank, rank - 1, rank, rank)
        assert (interleave, promotion, fill) == (0, 3, 0)
        self.told.append(
            {"numbers": numbers, "base": base.value, "extent": [*extent], "stride": [*stride],
             "box": [*box], "step": [*step], "swizzle": swizzle}
        )  # fmt: skip
        return self.code

    def cuTensorMapEncodeIm2col(  # noqa: N802
        self, into: Any, numbers: int, rank: int, base: Any, extent: Any, stride: Any, lower: Any,
        upper: Any, channels: int, pixels: int, step: Any, interleave: int, swizzle: int,
        promotion: int, fill: int,
    ) -> int:  # fmt: skip
        assert ctypes.cast(into, ctypes.c_void_p).value % 64 == 0  # type: ignore[operator]
        assert (rank, interleave, promotion, fill) == (4, 0, 3, 0)
        self.told.append(
            {"numbers": numbers, "base": base.value, "extent": [*extent], "stride": [*stride],
             "lower": [*lower], "upper": [*upper], "box": [channels, pixels], "step": [*step],
             "swizzle": swizzle}
        )  # fmt: skip
        return self.code


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    made = Driver()
    monkeypatch.setattr(nvrtc, "driver", lambda: made)
    return made


def test_tiles_of_a_strided_tensor(driver: Driver) -> None:
    x = torch.zeros(2, 5, 6, 64, dtype=torch.bfloat16)
    found = maps.tiled(x, (64, 6, 5), (64, 384), (32, 3, 5), step=(1, 2, 1), swizzle=64)
    assert ctypes.sizeof(found) == 128
    assert driver.told == [
        {"numbers": BFLOAT, "base": x.data_ptr(), "extent": [64, 6, 5], "stride": [128, 768],
         "box": [32, 3, 5], "step": [1, 2, 1], "swizzle": SWIZZLE[64]}
    ]  # fmt: skip


def test_windows_of_a_convolution(driver: Driver) -> None:
    x = torch.zeros(2, 9, 7, 16)
    maps.windows(
        x, (2, 9, 7, 16), (3, 5), (2, 1), (1, 4), (1, 2), channels=16, pixels=128,
        numbers=maps.ROUNDED_TO_TF32,
    )  # fmt: skip
    assert driver.told == [
        {"numbers": TFLOAT, "base": x.data_ptr(), "extent": [16, 7, 9, 2],
         "stride": [64, 448, 4032], "lower": [-4, -1],
         "upper": [4 - 4 * 2, 1 - 2], "box": [16, 128], "step": [1, 1, 2, 1],
         "swizzle": SWIZZLE[64]}
    ]  # fmt: skip


def test_packed_activations_go_in_rows_of_128_bytes(driver: Driver) -> None:
    x = torch.zeros(2, 9, 7, 192, dtype=torch.float16)
    packed.rows(x, 192, 126, 96)
    packed.boxes(x, 8, 4)
    packed.windows(x, (3, 3), (1, 1), (1, 1), (1, 1), 64)
    assert [told["extent"] for told in driver.told] == [[192, 126], [192, 7, 9, 2], [192, 7, 9, 2]]
    assert [told["stride"] for told in driver.told] == [[384], *[[384, 2688, 24192]] * 2]
    assert [told["box"] for told in driver.told] == [[64, 96], [64, 8, 4, 1], [64, 64]]
    assert {(told["numbers"], told["swizzle"]) for told in driver.told} == {(HALF, SWIZZLE[128])}


def test_a_refusal_says_what_was_refused(driver: Driver) -> None:
    driver.code = 1
    with pytest.raises(BackendError, match=r"boxes of \(8, 4\) in \(64, 9\) \(error 1\)"):
        maps.tiled(torch.zeros(9, 64), (64, 9), (64,), (8, 4))
    with pytest.raises(BackendError, match=r"windows of \(1, 1\) over an image \(1, 1, 1, 8\)"):
        maps.windows(
            torch.zeros(8), (1, 1, 1, 8), *[(1, 1)] * 4, channels=8, pixels=1
        )  # fmt: skip

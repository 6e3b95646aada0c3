"""cuSPARSE's way by torch's product on a CPU: the convolution, by indices of 4 bytes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from csbench.backends.base import TORCH_DTYPE
from csbench.backends.csr.cusparse import CuSparse, fits
from csbench.backends.csr.layer import CsrLayer
from csbench.graph import reference
from tests.backends.csr.layers import TOLERANCE, by_cusparse, case, inputs, layer

POINTWISE: dict[str, dict[str, Any]] = {
    "1x1": {"cin": 33, "cout": 24, "kernel": (1, 1), "size": (6, 6)},
    "strided, residual, relu6": {
        "cin": 20, "cout": 37, "kernel": (1, 1), "size": (9, 7), "stride": (2, 2),
        "residual": True, "activation": "relu6",
    },
    "linear": {"cin": 300, "cout": 17, "kernel": (1, 1), "size": (1, 1), "activation": "none"},
}  # fmt: skip


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("shape", POINTWISE)
def test_it_equals_the_reference(shape: str, batch: int) -> None:
    conv, given = layer(**POINTWISE[shape]), case(batch=batch)
    x, *rest = inputs(conv, given)
    out = CuSparse(conv, "cpu").run(x, rest[0] if rest else None)
    expected = reference.convolution(conv, x, *rest)
    assert reference.relative_error(out, expected) < TOLERANCE["fp32"]


def test_values_and_indices_take_4_bytes_each() -> None:
    conv = layer(**POINTWISE["1x1"])
    made, kept = CuSparse(conv, "cpu"), int(conv.weight.count_nonzero())
    indices = made.matrix.crow_indices(), made.matrix.col_indices()
    assert {index.dtype for index in indices} == {torch.int32}
    assert made.bytes == 8 * kept + 4 * (24 + 1)
    assert torch.equal(made.matrix.to_dense(), conv.weight.flatten(1))


def test_only_pointwise_layers_in_fp32_fit() -> None:
    conv = layer(**POINTWISE["1x1"])
    assert fits(conv, torch.float32)
    assert not fits(conv, torch.float16) and not fits(conv, torch.bfloat16)
    assert not fits(layer(8, 8, (3, 3), (6, 6)), torch.float32)
    assert not fits(layer(8, 8, (1, 1), (6, 6), padding=(1, 1)), torch.float32)
    vast = torch.zeros(1).expand(2**16, 2**15, 1, 1)  # takes no memory
    assert not fits(dataclasses.replace(conv, weight=vast), torch.float32)


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("shape", POINTWISE)
def test_one_image_of_halves_is_a_product_in_fp32(shape: str, dtype: str) -> None:
    conv, given = layer(**POINTWISE[shape]), case(dtype, batch=1)
    said, got, expected = by_cusparse(conv, given)
    assert said == "cuSPARSE, int32 indices, one image as fp32"
    assert got.dtype == TORCH_DTYPE[dtype]
    assert reference.relative_error(got, expected) < TOLERANCE[dtype]


def test_several_images_of_halves_are_not() -> None:
    variants = CsrLayer(layer(**POINTWISE["1x1"]), case("fp16", batch=2)).variants
    assert variants and not any(isinstance(v, CuSparse) for v in variants.values())

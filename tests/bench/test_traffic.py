"""Bytes that no run can spare, counted by hand."""

from __future__ import annotations

import pytest
import torch

from csbench.bench.traffic import activation_bytes, least_bytes
from csbench.core.case import Case, CheckpointRef
from csbench.core.record import LayerReport
from csbench.graph.program import Conv, Program

WEIGHTS = (LayerReport(name="layer", ran="sparse", bytes=5000),)


def case(dtype: str = "fp32", batch: int = 2) -> Case:
    return Case(
        model="tiny", pattern="cs:4", sparsity=0.75, backend="fake", baseline="fake",
        device="cuda", dtype=dtype, batch=batch, input=(3, 8, 8), checkpoint=CheckpointRef(seed=0),
    )  # fmt: skip


def conv(
    window: int = 1, stride: int = 1, out: int = 8, groups: int = 1, residual: bool = False
) -> Conv:
    """16 channels of 8 x 8 to as many."""
    return Conv(
        name="layer", weight=torch.ones(16, 16 // groups, window, window), bias=torch.zeros(16),
        stride=(stride, stride), padding=(window // 2, window // 2), dilation=(1, 1),
        groups=groups, activation="relu", residual=residual, input_size=(16, 8, 8),
        output_size=(16, out, out),
    )  # fmt: skip


def cold(layer: Conv, cache_bytes: int = 0, dtype: str = "fp32") -> int:
    """Without the weights."""
    return least_bytes(
        layer, (), case(dtype), cold=True, turns=4, cache_bytes=cache_bytes
    )  # fmt: skip


FULL = 2 * 16 * 64 * 4  # input or output of both images


def test_a_layer_needs_what_its_windows_meet_its_output_and_residual() -> None:
    assert activation_bytes(conv(), case()) == 2 * FULL
    assert activation_bytes(conv(residual=True), case("fp16")) == 3 * FULL // 2
    assert activation_bytes(conv(stride=2, out=4), case()) == FULL // 4 + FULL // 4
    assert activation_bytes(conv(window=3, stride=2, out=4), case()) == FULL + FULL // 4


def test_with_cold_caches_input_weights_and_output_cross_memory() -> None:
    assert cold(conv()) == 2 * FULL
    assert cold(conv(), dtype="fp16") == FULL
    assert cold(conv(residual=True)) == 3 * FULL
    found = least_bytes(conv(), WEIGHTS, case(), cold=True, turns=4, cache_bytes=0)
    assert found == 2 * FULL + 5000


def test_an_output_may_stay_in_the_cache() -> None:
    assert cold(conv(), cache_bytes=FULL // 4) == FULL + 3 * FULL // 4
    assert cold(conv(), cache_bytes=1 << 20) == FULL


def test_a_stride_beyond_the_window_steps_over_pixels() -> None:
    assert cold(conv(stride=2, out=4)) == FULL // 4 + FULL // 4
    assert cold(conv(window=3, stride=2, out=4)) == FULL + FULL // 4


@pytest.mark.parametrize("groups", [1, 4])
def test_a_channel_that_only_zeros_meet_need_not_be_read(groups: int) -> None:
    layer = conv(groups=groups)
    layer.weight[:, 1] = 0  # one channel of each group
    assert cold(layer) == FULL - groups * FULL // 16 + FULL


@pytest.mark.parametrize(("cache", "read"), [(0, 1.0), (2.0, 0.5), (4.0, 0.0), (9.0, 0.0)])
def test_a_warm_cache_keeps_its_own_size_of_the_inputs_that_rotate(
    cache: float, read: float
) -> None:
    """Four inputs; a cache of two of them spares at most half."""
    program = Program("tiny", (16, 8, 8), (), 0)
    found = least_bytes(
        program, WEIGHTS, case(), cold=False, turns=4, cache_bytes=int(cache * FULL)
    )
    assert found == read * FULL

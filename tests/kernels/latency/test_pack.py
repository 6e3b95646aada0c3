"""Packed records decode, as tensor cores read them, to the weights in their order of channels."""

from __future__ import annotations

import pytest
import torch

from csbench.backends.cs.latency_layer import kernelize
from csbench.core.pattern import parse
from csbench.kernels.latency.pack import Order, pack_weights
from csbench.sparse.patterns import for_spec
from tests.backends.cases import conv
from tests.kernels.latency.meaning import decoded

# (input channels, pattern): channels that 32, 16 or 4 do not divide, few groups, long groups
LAYERS = [
    (64, ""), (40, ""), (7, ""), (64, "cs:2"), (34, "cs:2"), (64, "cs:4"), (36, "cs:4"),
    (48, "cs:8"), (16, "cs:16"), (32, "cs:16"), (80, "cs:16"), (96, "cs:4:16"), (128, "cs:32"),
    (36, "cs:3"), (12, "cs:6"), (64, "nm:2:4"), (36, "nm:2:4"), (4, "nm:2:4"), (34, "nm:1:2"),
    (20, "nm:1:4"), (48, "nm:1:8"), (144, "nm:1:16"), (48, "nm:2:8"), (80, "nm:2:16"),
]  # fmt: skip


@pytest.mark.parametrize("split", [True, False], ids=["two planes", "one plane"])
@pytest.mark.parametrize(("cin", "pattern"), LAYERS)
def test_records_decode_to_the_weights(cin: int, pattern: str, split: bool) -> None:
    weight, spec = torch.randn(23, cin, 3, 2), parse(pattern) if pattern else None
    if spec is not None:
        weight = weight * for_spec(spec).mask(weight)
    # Rows that keep everything, one weight, and none; and groups that keep none.
    weight[5], weight[6] = weight[5] * (torch.rand(cin, 3, 2) < 0.3), 0
    given = conv(weight=weight, bias=torch.randn(23), pattern=spec, input_size=(cin, 5, 5))
    layer = kernelize(given, 1, 23)
    packed = pack_weights(weight, given.bias, layer.m, split, "cpu", order=layer.order)
    got = decoded(packed, layer.m, split)
    channel = layer.order.channel
    expected = weight.flatten(2).double()[:, channel.clamp_min(0)]
    expected[:, channel < 0] = 0
    limit = 2.0 ** (-22 if split else -11) * expected.abs().amax((1, 2), keepdim=True)
    assert ((got[:23] - expected).abs() <= limit).all()
    assert not got[23:].any()


def test_rows_go_where_the_output_wants_them() -> None:
    weight, bias = torch.randn(36, 32, 1, 1), torch.randn(36)
    order, out_order = Order(32, 1), Order(36, 4)
    packed = pack_weights(weight, bias, 1, True, "cpu", order=order, out_order=out_order)
    got, taken = decoded(packed, 1, True)[: out_order.stored, :, 0], out_order.channel >= 0
    places = out_order.channel[taken]
    assert torch.allclose(got[taken], weight[places, :, 0, 0].double(), rtol=0, atol=1e-6)
    assert torch.equal(packed.bias[: out_order.stored][taken], bias[places])
    assert not got[~taken].any()
    assert not packed.bias[: out_order.stored][~taken].any()


def test_blocks_of_rows_are_made_once_and_let_go() -> None:
    packed = pack_weights(torch.randn(40, 64, 1, 1), torch.randn(40), 1, False, "cpu")
    by_64, by_32 = packed.blocked(64), packed.blocked(32)
    assert by_64.shape == (1, 2, 4, packed.records.shape[2])
    assert by_32.shape == (2, 2, 2, packed.records.shape[2])
    assert torch.equal(by_64[0, :, :3], packed.records)
    assert torch.equal(by_32[1, :, 0], packed.records[:, 2])
    assert torch.equal(by_64[0, :, 3], packed.records[:, 2])  # nobody stores those rows
    assert packed.blocked(64) is by_64
    packed.keep({32})
    assert packed.blocked(32) is by_32
    assert packed.blocked(64) is not by_64

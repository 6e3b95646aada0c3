"""Rows in groups and their lists of columns: nothing is lost, and little is added."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from csbench.kernels.csr import candidates, columns, direct, staged
from csbench.kernels.csr.columns import Lists, Weight
from csbench.kernels.csr.space import Shape, Space


def weight_of(rows: int, channels: int, taps: int, density: float, seed: int = 0) -> Tensor:
    """OIHW; the first rows and one channel have no weight at all."""
    generator = torch.Generator().manual_seed(seed)
    size = (rows, channels, 1, taps)
    weight = torch.randn(size, generator=generator)
    weight *= torch.rand(size, generator=generator) < density
    weight[: rows // 8] = 0
    weight[:, channels // 2] = 0
    return weight


def unpacked(lists: Lists, slots: Tensor, places: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """[rows, channels, taps] again, of lists for groups `slots` [blocks, lists, V]."""
    rows, channels, taps = shape
    chunk = len(places) // taps
    chunks = -(-channels // chunk)
    column_of = {int(place): column for column, place in enumerate(places)}
    weight = torch.zeros(rows, chunks * chunk * taps)
    for run in range(len(lists.runs) - 1):
        block, part = divmod(run, chunks)
        for i in range(slots.shape[1]):
            begin, end = (int(lists.runs[run] + lists.starts[run, i + j]) for j in (0, 1))
            for place, values in zip(
                lists.offsets[begin:end], lists.weights[begin:end], strict=True
            ):
                for row, value in zip(slots[block, i].tolist(), values.tolist(), strict=True):
                    if value:
                        weight[row, part * chunk * taps + column_of[int(place)]] += value
    return weight[:, : channels * taps].view(shape)


@pytest.mark.parametrize("v", columns.WIDTHS)
@pytest.mark.parametrize(("rows", "channels", "taps"), [(64, 32, 1), (37, 20, 9), (5, 3, 4)])
def test_lists_hold_the_weight(v: int, rows: int, channels: int, taps: int) -> None:
    oihw = weight_of(rows, channels, taps, 0.3)
    weight = Weight(oihw)
    groups, lengths = weight.groups(v)
    slots = columns.dealt(groups, lengths, 4, -(-len(groups) // 4)).view(2, -1, v)
    for chunk, granule in ((channels, 4), (7, 2)):
        places = 16 * torch.arange(min(chunk, channels) * taps)
        lists = columns.lists(weight.values, slots, places, min(chunk, channels), granule)
        assert torch.equal(
            unpacked(lists, slots, places, tuple(weight.values.shape)), weight.values
        )
        assert not (lists.runs % 4).any() and not (lists.starts % granule).any()


@pytest.mark.parametrize("v", columns.WIDTHS)
def test_a_weight_of_zeros_has_empty_lists(v: int) -> None:
    weight = Weight(torch.zeros(8, 4, 3, 3))
    groups, lengths = weight.groups(v)
    slots = columns.dealt(groups, lengths, 1, len(groups))
    lists = columns.lists(weight.values, slots, torch.arange(36), 4, 2)
    assert not lengths.any() and not lists.runs.any() and not lists.starts.any()


def test_filling_reads_what_its_own_list_reads() -> None:
    oihw = torch.zeros(2, 4, 1, 1)
    oihw[0, 1], oihw[1, 3] = 1.0, 2.0
    lists = columns.lists(
        oihw.flatten(2), torch.tensor([[[0], [1]]]), 10 * torch.arange(4), 4, granule=2
    )
    assert lists.offsets.tolist() == [10, 10, 30, 30]
    assert lists.weights.flatten().tolist() == [1, 0, 2, 0]


def test_rows_that_keep_the_same_columns_share_a_group() -> None:
    rows = torch.rand(8, 40) < 0.3
    kept = rows.repeat(4, 1)[torch.randperm(32)]
    groups = columns.groups_of(kept, 4)
    assert sorted(groups.flatten().tolist()) == list(range(32))
    assert all((kept[group] == kept[group[0]]).all() for group in groups)


@pytest.mark.parametrize("rows", [1, 3, 6, 37])
def test_every_row_is_in_one_group(rows: int) -> None:
    groups = columns.groups_of(torch.rand(rows, 20) < 0.5, 4)
    found = groups.flatten()
    assert sorted(found[found >= 0].tolist()) == list(range(rows))


def test_hands_get_about_the_same() -> None:
    lengths = torch.randint(10, 500, (60,))
    table = columns.dealt(torch.arange(60).unsqueeze(1), lengths, 8, 8)
    assert sorted(table[table >= 0].tolist()) == list(range(60))
    sums = torch.where(table >= 0, lengths[table.clamp_min(0)], 0).sum((1, 2))
    assert sums.max() < 1.2 * sums.float().mean()


LAYER = Shape(2, 40, (9, 7), 24, (9, 7), (3, 3), (1, 1), (1, 1), (1, 1))


@pytest.mark.parametrize("v", columns.WIDTHS)
def test_staged_offsets_lead_to_their_channel_and_tap(v: int) -> None:
    weight, space = Weight(weight_of(24, 40, 9, 0.2).view(24, 40, 3, 3)), Space.of(LAYER)
    layer = staged.Staged(weight, space, staged.Tile(v, 2, 2, 4))
    packed, plane = layer.packed, space.phases * layer.span
    at = [
        4 * (channel * plane + phase * layer.span + shift)
        for channel in range(packed.chunk)
        for phase, shift in space.taps
    ]
    found = unpacked(packed.lists, packed.slots.long(), torch.tensor(at), (24, 40, 9))
    assert torch.equal(found, weight.values)
    reach = max(shift for _, shift in space.taps)
    assert int(packed.lists.offsets.max()) // 4 + layer.tile.positions <= packed.chunk * plane
    assert layer.span >= layer.tile.positions + reach
    assert torch.equal(2 * packed.starts[:, : layer.tile.slots + 1], packed.lists.starts)


@pytest.mark.parametrize("v", columns.WIDTHS)
def test_direct_entries_lead_to_their_channel_and_tap(v: int) -> None:
    weight = Weight(weight_of(24, 40, 9, 0.2).view(24, 40, 3, 3))
    rows, lists = direct.Direct(weight, LAYER, direct.Cut(v, 1, 1)).packed
    places = torch.tensor([
        (channel * 63 + y * 7 + x) * 32 + 3 * y + x
        for channel in range(40) for y in range(3) for x in range(3)
    ])  # fmt: skip
    assert torch.equal(
        unpacked(lists, rows.long().unsqueeze(1), places, (24, 40, 9)), weight.values
    )


@pytest.mark.parametrize("density", [0.02, 0.5])
def test_tiles_fit_into_shared_memory(density: float) -> None:
    for size in (7, 56, 200):
        shape = LAYER._replace(images=64, size=(size, size), out_size=(size, size), rows=64)
        weight = Weight(weight_of(64, 40, 9, density).view(64, 40, 3, 3))
        for layer in candidates.tiles(weight, Space.of(shape), 2, sums=1):
            y = torch.empty(0)
            call = layer.call(y, y, None, y, 0)
            assert call.shared <= layer.tile.budget
            assert call.grid >= 66

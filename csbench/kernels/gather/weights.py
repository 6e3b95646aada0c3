"""A layer's weights on the device: packed once for every size of stage that is tried."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from csbench.kernels.gather.deal import most_steps
from csbench.kernels.gather.geometry import Geometry, Pair
from csbench.kernels.gather.pack import Packed, Stages, Units, by_tap, by_window, pack, scaled
from csbench.kernels.gather.tile import Packing, Plan


@dataclass(frozen=True, eq=False)
class Held:
    """Packed weights on the device, with the boxes' coordinates as the kernel takes them."""

    records: Tensor
    starts: Tensor
    boxes: Tensor  # int32 [boxes, 4]: offsets by dimension (16 bits each), first channel
    stages: int
    bytes: int


class Weights:
    """Units of output channels as numbers of `dtype`, or as sums of two of them.

    `window` is what 2 x 2 output pixels read together, where tiles may share it.
    """

    def __init__(
        self, units: Units, geometry: Geometry, window: Pair | None, planes: int,
        dtype: torch.dtype, device: str,
    ) -> None:  # fmt: skip
        self.units, self.geometry, self.window, self.device = units, geometry, window, device
        made, self.unscale = scaled(units)
        high = made.values.to(dtype)
        low = (made.values - high.float()).to(dtype)
        self.parts: tuple[Tensor, ...] = (high, low)[:planes]
        self.rows = units.rows.reshape(-1).to(device)
        self.total_boxes = len(units.boxes()[0])
        self._held: dict[Packing, Held] = {}
        self._records: dict[Packing, int] = {}

    def records(self, packing: Packing) -> int:
        """The most records of a unit in a stage."""
        if packing not in self._records:
            stages = self._stages(packing)
            self._records[packing] = most_steps(
                self.units.unit, stages.stage, (self.units.count, stages.number), packing.spans
            )
        return self._records[packing]

    def held(self, plan: Plan) -> Held:
        """The weights as a plan reads them."""
        packing = plan.packing
        if packing not in self._held:
            self._held[packing] = self._packed(packing)
        return self._held[packing]

    def _packed(self, packing: Packing) -> Held:
        g, stages = self.geometry, self._stages(packing)
        if packing.shared and self.window is not None:
            g = g.windowed(self.window)
        made = pack(
            self.units, stages, swizzled=g.swizzled, parts=self.parts, spans=packing.spans,
            together=packing.together,
        )  # fmt: skip
        return Held(
            made.records.to(self.device), made.starts.to(self.device),
            coordinates(made, g).to(self.device), made.stages, made.bytes,
        )  # fmt: skip

    def _stages(self, packing: Packing) -> Stages:
        if packing.shared and self.window is not None:
            return by_window(self.units, self.window)
        return by_tap(self.units, packing.boxes)

    def drop_all_but(self, plans: Iterable[Plan]) -> None:
        """Let go of what was packed for other plans."""
        wanted = {plan.packing for plan in plans}
        self._held = {packing: held for packing, held in self._held.items() if packing in wanted}

    def keep(self, plan: Plan) -> None:
        """Let go of all but what this plan reads, and of what it was packed from."""
        self._held = {plan.packing: self.held(plan)}
        self.parts = ()
        self.units = dataclasses.replace(self.units, values=self.units.values[:0].clone())


def coordinates(packed: Packed, geometry: Geometry) -> Tensor:
    """Of every box the offsets of its tap or pixel, 16 bits each in two words; first channel."""
    taps = torch.tensor(geometry.taps, dtype=torch.int64) & 0xFFFF
    tap = taps[packed.boxes[:, 0].long()]
    words = tap[:, 0::2] | tap[:, 1::2] << 16
    words = torch.where(words >= 2**31, words - 2**32, words)
    channel = packed.boxes[:, 1:].long()
    return torch.cat([words, channel, torch.zeros_like(channel)], 1).int()

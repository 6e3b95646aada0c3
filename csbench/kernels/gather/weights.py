"""A layer's weights on the device: packed once for every size of stage that is tried."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from csbench.kernels.gather.geometry import Geometry
from csbench.kernels.gather.pack import Packed, Units, pack, scaled


@dataclass(frozen=True, eq=False)
class Held:
    """Packed weights on the device, with the boxes' coordinates as the kernel takes them."""

    records: Tensor
    starts: Tensor
    boxes: Tensor  # int32 [boxes, 4]: offsets by dimension (16 bits each), first channel
    stages: int
    boxes_of_stage: int
    bytes: int


class Weights:
    """Units of output channels as numbers of `dtype`, or as sums of two of them."""

    def __init__(
        self, units: Units, geometry: Geometry, planes: int, dtype: torch.dtype, device: str
    ) -> None:
        self.units, self.geometry, self.device = units, geometry, device
        made, self.unscale = scaled(units)
        high = made.values.to(dtype)
        low = (made.values - high.float()).to(dtype)
        self.parts: tuple[Tensor, ...] = (high, low)[:planes]
        self.rows = units.rows.reshape(-1).to(device)
        self.total_boxes = len(units.boxes()[0])
        self._held: dict[tuple[int, bool], Held] = {}

    def held(self, boxes: int, spans: bool) -> Held:
        """The weights for stages of so many boxes; `spans`: records may lie in two stages."""
        if (boxes, spans) not in self._held:
            made = pack(
                self.units, boxes, swizzled=self.geometry.swizzled, parts=self.parts, spans=spans
            )
            self._held[boxes, spans] = Held(
                made.records.to(self.device), made.starts.to(self.device),
                coordinates(made, self.geometry).to(self.device), made.stages, boxes, made.bytes,
            )  # fmt: skip
        return self._held[boxes, spans]

    def keep(self, boxes: int, spans: bool) -> None:
        """Let go of what was packed for other plans, and of what it was packed from."""
        self._held = {(boxes, spans): self.held(boxes, spans)}
        self.parts = ()
        self.units = dataclasses.replace(self.units, values=self.units.values[:0].clone())


def coordinates(packed: Packed, geometry: Geometry) -> Tensor:
    """Of every box the offsets of its tap, 16 bits each in two words, and its first channel."""
    taps = torch.tensor(geometry.taps, dtype=torch.int64) & 0xFFFF
    tap = taps[packed.boxes[:, 0].long()]
    words = tap[:, 0::2] | tap[:, 1::2] << 16
    words = torch.where(words >= 2**31, words - 2**32, words)
    channel = packed.boxes[:, 1:].long()
    return torch.cat([words, channel, torch.zeros_like(channel)], 1).int()

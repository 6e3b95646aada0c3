"""A network small enough to be measured in a test: `tests/bench/tiny.py:tiny`."""

from __future__ import annotations

from torch import Tensor, nn


class Tiny(nn.Module):
    """A stem, a residual block with a bottleneck, and a classifier."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.first = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(x)))
        y = self.relu(self.first_norm(self.first(x)))
        x = self.relu(self.second_norm(self.second(y)) + x)
        return self.fc(self.flatten(self.pool(x)))


def tiny(num_classes: int = 10) -> nn.Module:
    return Tiny(num_classes)


tiny.input_size = (3, 8, 8)  # type: ignore[attr-defined]

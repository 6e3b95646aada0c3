"""Networks for the tests of training: of odd shapes, too large, failing or hanging on one rank."""

from __future__ import annotations

import os
import signal
import threading

import torch
from torch import Tensor, nn

MOST = 4  # images that fit into the greedy network's memory


class Net(nn.Module):
    """A stem, two 3x3 convolutions and a classifier on 8x8 images."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 32, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.fc = nn.Linear(32, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.body(x))
        return out


def awkward() -> nn.Module:
    """Convolutions whose kernels, channels and sizes fit nothing but groups of 2, 3, 4, 8, 16."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 48, 3), nn.Conv2d(48, 50, 3), nn.Conv2d(48, 7, 1), nn.Conv2d(96, 13, (1, 5)),
        nn.Conv2d(48, 1, 1), nn.Conv2d(480, 33, (2, 3)), nn.Conv2d(1536, 5, 1), nn.Linear(48, 10),
    )  # fmt: skip


class Greedy(Net):
    """Out of memory above a batch of MOST."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > MOST:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 99 GiB")
        return super().forward(x)


class Mortal(Net):
    """Rank 1 ends in its third training step without a word."""

    steps = 0

    def forward(self, x: Tensor) -> Tensor:
        Mortal.steps += self.training
        if os.environ.get("RANK") == "1" and Mortal.steps > 3:
            os._exit(7)
        return super().forward(x)


class Failing(Net):
    """Rank 1 raises an error in its third training step."""

    steps = 0

    def forward(self, x: Tensor) -> Tensor:
        Failing.steps += self.training
        if os.environ.get("RANK") == "1" and Failing.steps > 3:
            raise RuntimeError("the disk is on fire")
        return super().forward(x)


class Stuck(Net):
    """Rank 1 never comes back from its third training step."""

    steps = 0

    def forward(self, x: Tensor) -> Tensor:
        Stuck.steps += self.training
        if os.environ.get("RANK") == "1" and Stuck.steps > 3:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
            threading.Event().wait()
        return super().forward(x)


def net(num_classes: int = 10) -> nn.Module:
    return Net(num_classes)


def greedy(num_classes: int = 10) -> nn.Module:
    return Greedy(num_classes)


def mortal(num_classes: int = 10) -> nn.Module:
    return Mortal(num_classes)


def failing(num_classes: int = 10) -> nn.Module:
    return Failing(num_classes)


def stuck(num_classes: int = 10) -> nn.Module:
    return Stuck(num_classes)


for factory in (net, greedy, mortal, failing, stuck):
    factory.input_size = (3, 8, 8)  # type: ignore[attr-defined]

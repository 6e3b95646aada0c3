"""A small network with whatever moves channels, pruned, as a program."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from csbench.core.case import Case
from csbench.core.pattern import PatternSpec, parse
from csbench.graph import attach, trace
from csbench.graph.program import Program
from csbench.sparse.network import sparsify_state

IMAGE = (3, 21, 19)


class Small(nn.Module):
    """A stem with pooling, a projected residual, a concatenation, torch steps, a flat image."""

    def __init__(self, wide: int = 64) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 7, stride=2, padding=3)
        self.pool, self.mean = nn.MaxPool2d(3, 2, 1), nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(32, 48, 1, bias=False)
        self.middle = nn.Conv2d(48, 48, 3, padding=1)
        self.expand, self.project = nn.Conv2d(48, wide, 1), nn.Conv2d(32, wide, 1)
        self.down = nn.Conv2d(wide + 32, 36, 3, stride=2, padding=1)
        self.squeeze = nn.Conv2d(36, 48, 1)
        self.scale = nn.Conv2d(48, 48, 1)
        self.hidden = nn.Linear(48 * 3 * 3, 32)
        self.last = nn.Linear(32 + 48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.stem(x)))
        y = F.relu(self.middle(F.relu(self.reduce(x))))
        y = F.relu(self.expand(y) + self.project(x))
        y = F.relu(self.down(torch.cat([y, x], 1)))
        y = F.relu(self.squeeze(y))
        y = y * torch.sigmoid(self.scale(self.mean(y)))  # a torch step that two layers read
        z = F.relu(self.squeeze_again(y))
        flat = F.relu(self.hidden(torch.flatten(y, 1)))
        return self.last(torch.cat([flat, torch.flatten(self.mean(z), 1)], 1))

    def squeeze_again(self, y: Tensor) -> Tensor:
        """A residual of a value that torch made."""
        return self.scale(y) + y


def program(pattern: str, net: nn.Module | None = None) -> Program:
    """The network with the layers that can carry a pattern pruned; "" leaves all dense."""
    torch.manual_seed(3)
    net = Small().eval() if net is None else net
    carried: dict[str, PatternSpec] = {}
    if pattern:
        state, plan = sparsify_state(net.state_dict(), parse(pattern))
        net.load_state_dict(state)
        carried = {name: spec for name, spec in plan.items() if isinstance(spec, PatternSpec)}
    return attach(trace(net, IMAGE, "small"), carried)


def case(dtype: str, batch: int) -> Case:
    return Case(
        task="infer", model="small", pattern="cs", sparsity=0.5, backend="cs", baseline="cudnn",
        device="cpu", dtype=dtype, batch=batch, input=IMAGE,
    )  # fmt: skip

"""Small networks that are awkward to trace, each with the fused convolutions it should become."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


def conv(inputs: int, outputs: int, kernel: int = 3, **options: object) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


class SharedConv(nn.Module):
    """One convolution used twice, each time with a batch norm of its own."""

    expected = ("conv relu", "conv none")

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, 3)
        self.bn1, self.bn2 = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv(F.relu(self.bn1(self.conv(x)))))


class ResidualTwice(nn.Module):
    """The same shortcut is added in two places, left and right; the first sum is read twice; a
    scaled sum is no residual.
    """

    expected = ("a relu", "b none residual", "c relu residual", "d none")

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = conv(3, 4), conv(4, 4), conv(4, 4), conv(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.relu(self.a(x))
        b = a + self.b(a)
        c = torch.relu(self.c(b) + a)
        return torch.add(self.d(c), b, alpha=0.5)


class ConvReadTwice(nn.Module):
    """A convolution's output goes to a batch norm and past it: neither may swallow it."""

    expected = ("conv none", "tail relu residual")

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.tail = conv(3, 4), nn.BatchNorm2d(4), conv(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return F.relu(self.tail(self.bn(y)) + y)


class InPlace(nn.Module):
    """Written in place: after relu_ the shortcut is the rectified one."""

    expected = ("a relu", "b relu6 residual", "c none")

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 4), conv(4, 4), conv(4, 4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.a(x)
        y = self.relu(shortcut)
        y = self.b(y)
        y += shortcut
        F.relu6(y, inplace=True)
        z = self.c(y)
        z *= 2
        return z.sigmoid_()


class BothSides(nn.Module):
    """A sum of two convolutions: the left one absorbs it. And a convolution plus itself."""

    expected = ("right none", "left relu residual", "twice none")

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = conv(3, 4, bias=False), conv(3, 4, 1)
        self.twice = conv(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        right = self.right(x)
        y = self.twice((self.left(x) + right).relu())
        return y + y


class Sizes(nn.Module):
    """Shapes in the forward: sizes, views, chunks, slices, means; a linear layer on tokens."""

    expected = ("a none", "b none", "tokens none", "fc none")

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 4, stride=2), conv(2, 6, 1)
        self.tokens, self.fc = nn.Linear(6, 5), nn.Linear(5, 2)
        self.scale = nn.Parameter(torch.rand(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x) * self.scale
        first, second = y.chunk(2, dim=1)
        y = self.b(torch.max(first, second))
        y = y.view(x.shape[0], 6, -1).transpose(1, 2)
        y = self.tokens(y[:, 1:]).clamp(min=0)
        return self.fc(y.mean(dim=1))


class PreActivation(nn.Module):
    """Batch norms that follow no convolution; grouped, dilated and uneven convolutions; cat."""

    expected = ("a none", "b none", "c relu6")

    def __init__(self) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(3), nn.BatchNorm2d(7)
        self.a = nn.Conv2d(3, 4, (1, 3), padding="same", bias=False)
        self.b = nn.Conv2d(7, 4, (3, 1), stride=(1, 2), padding=(2, 0), dilation=2)
        self.c = nn.Conv2d(4, 8, 3, groups=4, padding="valid")
        self.act = nn.Hardtanh(0.0, 6.0)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([x, self.a(F.relu(self.bn1(x)))], 1)
        return self.act(self.c(self.b(F.dropout(self.bn2(y), training=self.training))))


class StandardisedWeight(nn.Module):
    """A weight computed in the forward, and batch norm as a function."""

    expected = ("inner relu", "head none")

    class Inner(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            weight = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
            return F.conv2d(x, weight, self.bias, padding=1)

    def __init__(self) -> None:
        super().__init__()
        self.inner = self.Inner(3, 4, 3)
        self.head = nn.Linear(4, 2)
        for name in ("mean", "weight", "bias"):
            self.register_buffer(name, torch.rand(4))
        self.register_buffer("var", torch.rand(4) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        y = F.batch_norm(y, self.mean, self.var, self.weight, self.bias, eps=1e-3).relu()
        return F.linear(F.adaptive_avg_pool2d(y, 1).flatten(1), self.head.weight, self.head.bias)


ALL = (
    SharedConv, ResidualTwice, ConvReadTwice, InPlace, BothSides, Sizes, PreActivation,
    StandardisedWeight,
)  # fmt: skip


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in eval mode with every parameter and statistic random, variances positive."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                values = torch.randn(tensor.shape, generator=generator)
                tensor.copy_(values.abs() + 0.5 if "var" in name else 0.5 * values)
    return model.eval()

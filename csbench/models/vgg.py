"""VGG with batch norm, with torchvision's parameter names (Simonyan & Zisserman, 2015)."""

from __future__ import annotations

from torch import Tensor, nn


class VGG(nn.Module):
    """Stages of 3x3 convolutions, each closed by max-pooling; a classifier of three layers."""

    def __init__(self, depths: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for depth, width in zip(depths, (64, 128, 256, 512, 512), strict=True):
            for _ in range(depth):
                layers += [
                    nn.Conv2d(inputs, width, 3, padding=1),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                ]
                inputs = width
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096), nn.ReLU(inplace=True), nn.Dropout(),
            nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout(),
            nn.Linear(4096, num_classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return out


def vgg16_bn(num_classes: int = 1000) -> VGG:
    return VGG((2, 2, 3, 3, 3), num_classes)


def vgg19_bn(num_classes: int = 1000) -> VGG:
    return VGG((2, 2, 4, 4, 4), num_classes)

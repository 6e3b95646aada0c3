"""ResNets for 32x32 images, named like torchvision's: a 3x3 stem and no max-pooling.

resnet20 and resnet32 have three stages of 16, 32 and 64 channels and projection shortcuts;
resnet18-cifar is the ImageNet network of four stages. 100 classes, as in the paper's Table 3.
"""

from __future__ import annotations

from torch import Tensor, nn

from csbench.models.resnet import BasicBlock, conv3x3, stage


class CifarResNet(nn.Module):
    """Stages of basic blocks, each of twice the channels and half the image of the one before."""

    def __init__(self, depths: tuple[int, ...], width: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(3, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.stages = len(depths)
        inputs = width
        for i, blocks in enumerate(depths):
            outputs = width * 2**i
            block = stage(BasicBlock, inputs, outputs, blocks, stride=1 if i == 0 else 2)
            self.add_module(f"layer{i + 1}", block)
            inputs = outputs
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(inputs, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        for i in range(self.stages):
            x = self.get_submodule(f"layer{i + 1}")(x)
        out: Tensor = self.fc(self.avgpool(x).flatten(1))
        return out


def resnet20(num_classes: int = 100) -> CifarResNet:
    return CifarResNet((3, 3, 3), 16, num_classes)


def resnet32(num_classes: int = 100) -> CifarResNet:
    return CifarResNet((5, 5, 5), 16, num_classes)


def resnet18_cifar(num_classes: int = 100) -> CifarResNet:
    return CifarResNet((2, 2, 2, 2), 64, num_classes)

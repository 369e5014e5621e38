"""ResNet-18 for small images (He et al., 2016): a 3x3 convolution with stride 1 and no pooling before the first block.

Parameter names follow RobustBench's ``ResNet``: ``conv1``, ``layer1.0.conv1``, ``layer2.0.shortcut.0``, ``linear``.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from fastait.runtime.arguments import count

WIDTHS = (64, 128, 256, 512)
"""Of the four layers, of two blocks each; all but the first halve height and width."""


class BasicBlock(nn.Module):
    """conv3x3-BN-ReLU-conv3x3-BN, added to the shortcut, then ReLU."""

    def __init__(self, in_planes: int, planes: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential()
        if in_planes != planes:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_planes, planes, 1, stride=stride, bias=False), nn.BatchNorm2d(planes)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        return F.relu(out + self.shortcut(x), inplace=True)


class ResNet18(nn.Module):
    """ResNet-18 on images in [0, 1], which it takes as they are: [-1, 1] or a data set's statistics are not its own.

    Args:
        num_classes: width of the logits, >= 2.

    Raises:
        TypeError: it is no whole number.
        ValueError: there are fewer classes.
    """

    mixing_places = ("layer1", "layer2")

    def __init__(self, num_classes: int = 10):
        super().__init__()
        self.num_classes = num_classes = count("num_classes", num_classes, 2)
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(BasicBlock(a, b, 1 if a == b else 2), BasicBlock(b, b, 1))
            for a, b in zip((WIDTHS[0], *WIDTHS), WIDTHS, strict=False)
        )
        self.linear = nn.Linear(WIDTHS[-1], num_classes)

    def features(self, x: Tensor) -> Tensor:
        """What the last layer is given: float [B, 512], non-negative, of images [B, 3, H, W] in [0, 1]."""
        out = self.layer1(F.relu(self.bn1(self.conv1(x)), inplace=True))
        return self.layer4(self.layer3(self.layer2(out))).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, num_classes] of images [B, 3, H, W] in [0, 1]."""
        return self.linear(self.features(x))

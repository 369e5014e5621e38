"""Pre-activation ResNet-18 for small images (He et al., 2016b), in the variants that files of others are of.

Parameter names follow RobustBench's ``PreActResNet``: ``conv1``, ``layer1.0.bn1``, ``layer2.0.shortcut.0``, ``bn``,
``linear``.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from fastait.models.resnet import WIDTHS
from fastait.runtime.arguments import count


class PreActBlock(nn.Module):
    """BN-ReLU-conv3x3 twice, added to the shortcut.

    Where the width changes the shortcut is a 1x1 convolution, of the block's input or, with ``activated``, of what BN
    and ReLU made of it: RobustBench's ``PreActBlock`` and ``PreActBlockV2``. Their parameters have the same names.
    """

    def __init__(self, in_planes: int, planes: int, stride: int, activated: bool):
        super().__init__()
        self.activated = activated
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.shortcut = (
            nn.Sequential(nn.Conv2d(in_planes, planes, 1, stride=stride, bias=False)) if in_planes != planes else None
        )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x), inplace=True)
        shortcut = x if self.shortcut is None else self.shortcut(out if self.activated else x)
        return self.conv2(F.relu(self.bn2(self.conv1(out)), inplace=True)) + shortcut


class PreActResNet18(nn.Module):
    """Pre-activation ResNet-18 on images in [0, 1], which it takes as they are.

    Args:
        num_classes: width of the logits, >= 2.
        activated_shortcuts: RobustBench's ``PreActBlockV2``.
        final_bn: BN and ReLU before the last layer, RobustBench's ``bn_before_fc``. Its files with it have
            ``PreActBlockV2``.

    Raises:
        TypeError: it is no whole number.
        ValueError: there are fewer classes.
    """

    mixing_places = ("layer1", "layer2")

    def __init__(self, num_classes: int = 10, *, activated_shortcuts: bool = False, final_bn: bool = False):
        super().__init__()
        self.num_classes = num_classes = count("num_classes", num_classes, 2)
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(
                PreActBlock(a, b, 1 if a == b else 2, activated_shortcuts), PreActBlock(b, b, 1, activated_shortcuts)
            )
            for a, b in zip((WIDTHS[0], *WIDTHS), WIDTHS, strict=False)
        )
        self.bn = nn.BatchNorm2d(WIDTHS[-1]) if final_bn else None
        self.linear = nn.Linear(WIDTHS[-1], num_classes)

    def features(self, x: Tensor) -> Tensor:
        """What the last layer is given: float [B, 512] of images [B, 3, H, W] in [0, 1]."""
        out = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        if self.bn is not None:
            out = F.relu(self.bn(out), inplace=True)
        return out.mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, num_classes] of images [B, 3, H, W] in [0, 1]."""
        return self.linear(self.features(x))

"""Wide residual network (Zagoruyko & Komodakis, 2016), the network of the paper's experiments (section 4).

Parameter names follow the authors' released checkpoints and RobustBench's ``WideResNet``: ``conv1``,
``block1.layer.0.bn1``, ``block1.layer.0.convShortcut``, ``bn1``, ``fc``.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from fastait.runtime.arguments import count, whole


def layout(depth: int, widen_factor: int, num_classes: int) -> tuple[int, list[int]]:
    """(blocks in each group, channels before the first group and after each) of a wide ResNet.

    Raises:
        TypeError: one of these is no whole number.
        ValueError: ``depth`` is not 6n + 4 with n >= 1, ``widen_factor`` < 1 or ``num_classes`` < 2.
    """
    depth, widen_factor = whole("depth", depth), count("widen_factor", widen_factor)
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"depth must be 6n + 4 with n >= 1 (10, 16, 22, 28, 34, ...), got {depth}")
    count("num_classes", num_classes, 2)
    return (depth - 4) // 6, [16, 16 * widen_factor, 32 * widen_factor, 64 * widen_factor]


class BasicBlock(nn.Module):
    """Pre-activation residual block: BN-ReLU-conv3x3 twice, 1x1 convolution on the shortcut where the width changes."""

    def __init__(self, in_planes: int, out_planes: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = nn.Conv2d(in_planes, out_planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_planes)
        self.conv2 = nn.Conv2d(out_planes, out_planes, 3, padding=1, bias=False)
        self.convShortcut = (
            nn.Conv2d(in_planes, out_planes, 1, stride=stride, bias=False) if in_planes != out_planes else None
        )

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.bn1(x), inplace=True)
        out = F.relu(self.bn2(self.conv1(activated)), inplace=True)
        out = self.conv2(out)
        shortcut = x if self.convShortcut is None else self.convShortcut(activated)
        return out + shortcut


class NetworkBlock(nn.Module):
    """``depth`` basic blocks of one width; the first one changes width and stride."""

    def __init__(self, depth: int, in_planes: int, out_planes: int, stride: int):
        super().__init__()
        self.layer = nn.Sequential(
            *(
                BasicBlock(in_planes if i == 0 else out_planes, out_planes, stride if i == 0 else 1)
                for i in range(depth)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class WideResNet(nn.Module):
    """WRN-``depth``-``widen_factor`` on images in [0, 1]; its first operation maps them to [-1, 1].

    Args:
        depth: number of convolutions, 6n + 4 with n >= 1 (10, 16, 28, 34, ...).
        widen_factor: multiple of the base widths 16, 32, 64, >= 1.
        num_classes: width of the logits, >= 2.
        in_channels: channels of the images.
        stride: of the first convolution, 1 or 2. With 2 it is 4x4, and all blocks see a quarter of the pixels, in a
            quarter of the time: not the published network, but more of it for the same cost.

    Raises:
        TypeError: an argument is no whole number.
        ValueError: ``depth`` is not 6n + 4, ``stride`` neither 1 nor 2, or another argument is too small.
    """

    mixing_places = ("block1", "block2")

    def __init__(
        self,
        depth: int = 28,
        widen_factor: int = 10,
        num_classes: int = 10,
        *,
        in_channels: int = 3,
        stride: int = 1,
    ):
        super().__init__()
        blocks, widths = layout(depth, widen_factor, num_classes)
        self.num_classes, in_channels = count("num_classes", num_classes, 2), count("in_channels", in_channels)
        if whole("stride", stride) not in (1, 2):
            raise ValueError(f"stride must be 1 or 2, got {stride}")
        self.conv1 = nn.Conv2d(in_channels, widths[0], stride + 2, stride=stride, padding=1, bias=False)
        self.block1 = NetworkBlock(blocks, widths[0], widths[1], stride=1)
        self.block2 = NetworkBlock(blocks, widths[1], widths[2], stride=2)
        self.block3 = NetworkBlock(blocks, widths[2], widths[3], stride=2)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], self.num_classes)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def features(self, x: Tensor) -> Tensor:
        """The paper's f: all but the last layer, pooled over the image.

        Args:
            x: float [B, C, H, W] in [0, 1], H and W at least 8.

        Returns:
            float [B, 64 * widen_factor], non-negative.
        """
        out = self.block3(self.block2(self.block1(self.conv1(2 * x - 1))))
        return F.relu(self.bn1(out), inplace=True).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, num_classes] of images [B, C, H, W] in [0, 1]."""
        return self.fc(self.features(x))

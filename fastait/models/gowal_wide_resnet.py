"""The wide ResNet of Gowal et al. (2020), with SiLU, which Rebuffi et al., Wang et al. (2023) and others train.

It differs from ``WideResNet`` in its activation, in its strided convolutions, which pad as TensorFlow's ``SAME`` does
(one more pixel at the right and at the bottom), and in its normalisation. Parameter and buffer names follow
RobustBench's ``DMWideResNet``: ``init_conv``, ``layer.0.block.0.batchnorm_0``, ``logits``, ``mean``, ``std``.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastait.models.wide_resnet import layout
from fastait.runtime.arguments import count
from fastait_kernels._support import described

CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)

ACTIVATIONS = {"silu": nn.SiLU, "relu": nn.ReLU}


class Block(nn.Module):
    """Pre-activation residual block; a 1x1 convolution of the activated input where the width changes."""

    def __init__(self, in_planes: int, out_planes: int, stride: int, activation: type[nn.Module]):
        super().__init__()
        self.strided = stride == 2
        self.batchnorm_0 = nn.BatchNorm2d(in_planes)
        self.relu_0 = activation()
        padding = 0 if self.strided else 1
        self.conv_0 = nn.Conv2d(in_planes, out_planes, 3, stride=stride, padding=padding, bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(out_planes)
        self.relu_1 = activation()
        self.conv_1 = nn.Conv2d(out_planes, out_planes, 3, padding=1, bias=False)
        self.shortcut = (
            nn.Conv2d(in_planes, out_planes, 1, stride=stride, bias=False) if in_planes != out_planes else None
        )

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu_0(self.batchnorm_0(x))
        out = activated
        if self.strided:  # SAME: as many pixels after as before, or one more
            out = F.pad(out, (out.shape[3] % 2, 1, out.shape[2] % 2, 1))
        out = self.conv_1(self.relu_1(self.batchnorm_1(self.conv_0(out))))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        return out + shortcut


class BlockGroup(nn.Module):
    """``depth`` blocks of one width; the first one changes width and stride."""

    def __init__(self, depth: int, in_planes: int, out_planes: int, stride: int, activation: type[nn.Module]):
        super().__init__()
        self.block = nn.Sequential(
            *(
                Block(in_planes if i == 0 else out_planes, out_planes, stride if i == 0 else 1, activation)
                for i in range(depth)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class GowalWideResNet(nn.Module):
    """WRN-``depth``-``widen_factor`` on images in [0, 1]; its first operation is (x - ``mean``) / ``std``.

    Args:
        depth: number of convolutions, 6n + 4 with n >= 1.
        widen_factor: multiple of the base widths 16, 32, 64, >= 1.
        num_classes: width of the logits, >= 2.
        activation: ``silu``, or ``relu`` as in Gowal et al.'s first files.

    Attributes:
        mean, std: buffers [3, 1, 1], CIFAR-10's at first. Files of other data sets hold others.

    Raises:
        ValueError: ``depth`` is not 6n + 4, or another argument is too small.
    """

    mean: Tensor
    std: Tensor
    mixing_places = ("layer.0", "layer.1")

    def __init__(self, depth: int = 28, widen_factor: int = 10, num_classes: int = 10, activation: str = "silu"):
        super().__init__()
        if not isinstance(activation, str) or activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {described(activation)}")
        kind = ACTIVATIONS[activation]
        blocks, widths = layout(depth, widen_factor, num_classes)
        self.num_classes = num_classes = count("num_classes", num_classes, 2)
        for name, values in (("mean", CIFAR10_MEAN), ("std", CIFAR10_STD)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32)[:, None, None])
        self.init_conv = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.layer = nn.Sequential(
            BlockGroup(blocks, widths[0], widths[1], 1, kind),
            BlockGroup(blocks, widths[1], widths[2], 2, kind),
            BlockGroup(blocks, widths[2], widths[3], 2, kind),
        )
        self.batchnorm = nn.BatchNorm2d(widths[3])
        self.relu = kind()
        self.logits = nn.Linear(widths[3], num_classes)

    def features(self, x: Tensor) -> Tensor:
        """What the last layer is given: float [B, 64 * widen_factor] of images [B, 3, H, W] in [0, 1]."""
        out = self.layer(self.init_conv((x - self.mean) / self.std))
        return self.relu(self.batchnorm(out)).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, num_classes] of images [B, 3, H, W] in [0, 1]."""
        return self.logits(self.features(x))

"""A small classifier of somebody else's, and images that it tells apart; a small network of ours."""

import torch
from torch import nn

from fastait.attacks.columns import PARTS
from fastait.models import WideResNet


class Classifier(nn.Module):
    """One convolution, BN and a linear layer, on 16x16 pixels."""

    def __init__(self, classes=10):
        super().__init__()
        self.c, self.b, self.f = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Linear(512, classes)

    def features(self, x):
        return self.b(self.c(x)).relu()

    def forward(self, x):
        return self.f(self.features(x).flatten(1))


def new(kind=Classifier, **options):
    torch.manual_seed(0)
    return kind(**options).eval()


def images(count=40):
    """(float images in [0, 1], the classes that ``new()`` gives them)."""
    x = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return x, new()(x).argmax(1)


def wide_resnet(widen_factor=1, size=16):
    """WRN-10 not at its first weights, where BN statistics say nothing and biases are zero."""
    torch.manual_seed(1)
    model = WideResNet(10, widen_factor, 10)
    with torch.no_grad():
        model.train()
        for _ in range(3):
            model(torch.rand(16, 3, size, size))
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def short_autoattack(patch, queries=10, iterations=5):
    """Make AutoAttack's parts short, for what is not about their strength."""
    for part in PARTS:
        patch.setitem(PARTS, part, queries if part == "square" else iterations)

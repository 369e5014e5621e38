"""A small classifier of somebody else's, and images that it tells apart."""

import torch
from torch import nn


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

"""Small networks whose last linear layer is found in one odd way or another, or not at all."""

from typing import NamedTuple

import torch
from torch import nn

D, K = 6, 4


class Small(nn.Module):
    """A convolution, BN, dropout, pooling; what comes after is said by the kinds below."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, D, 3, stride=2), nn.BatchNorm2d(D), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(D, K)

    def hidden(self, x):
        return self.drop(self.body(x))

    def forward(self, x):
        return self.fc(self.hidden(x))


class LogSoftmax(Small):
    def forward(self, x):
        return super().forward(x).log_softmax(dim=1)


class Scaled(Small):
    """A temperature, learnt, and a bias of each class."""

    def __init__(self):
        super().__init__()
        self.temperature, self.more = nn.Parameter(torch.ones(1, 1)), nn.Parameter(torch.zeros(1, K))

    def forward(self, x):
        return (super().forward(x) / self.temperature + self.more).mul_(2)


class Reordered(Small):
    def forward(self, x):
        return super().forward(x).index_select(1, torch.tensor([3, 1, 0, 2], device=x.device))


class InPlace(Small):
    """Normalises its images in place."""

    def forward(self, x):
        return super().forward(x.sub_(0.5))


class Output(NamedTuple):
    logits: torch.Tensor
    loss: None = None


class HuggingFace(Small):
    def forward(self, x):
        return Output(super().forward(x))


class NoGradients(Small):
    @torch.no_grad()
    def forward(self, x):
        return super().forward(x)


class TwoOfOneWidth(Small):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(D, K)
        self.fc = nn.Linear(K, K)

    def forward(self, x):
        return self.fc(self.first(self.hidden(x)).relu())


class Rotation(Small):
    """A second head, called last, whose outputs are not returned."""

    def __init__(self):
        super().__init__()
        self.rotation = nn.Linear(D, K)

    def forward(self, x):
        hidden = self.hidden(x)
        logits = self.fc(hidden)
        self.rotated = self.rotation(hidden).detach()
        return logits


class CalledTwice(Small):
    """The logits are of the second call."""

    def forward(self, x):
        hidden = self.hidden(x)
        return self.fc(hidden + 0.1 * self.fc(hidden).detach().mean())


class Bound(Small):
    """Its forward is replaced by a method bound to it, as some libraries do."""

    def __init__(self):
        super().__init__()
        self.forward = self.other

    def other(self, x):
        return self.fc(self.hidden(x))


class TwoNames(Small):
    def __init__(self):
        super().__init__()
        self.classifier = nn.Sequential(nn.Identity(), self.fc)

    def forward(self, x):
        return self.classifier(self.hidden(x))


class Convolution(Small):
    """Logits are a convolution of one pixel, averaged, as in SqueezeNet."""

    def __init__(self):
        super().__init__()
        self.body = self.body[:3]
        self.fc = nn.Conv2d(D, K, 1)

    def forward(self, x):
        return self.fc(self.hidden(x)).relu().mean(dim=(2, 3))


class OfTokens(Small):
    """A linear layer of every pixel, averaged."""

    def __init__(self):
        super().__init__()
        self.body = self.body[:3]

    def forward(self, x):
        return self.fc(self.hidden(x).flatten(2).transpose(1, 2)).mean(dim=1)


class FeaturesWithin(Small):
    """A submodule called features, as torchvision's MobileNet, VGG and DenseNet have."""

    def __init__(self):
        super().__init__()
        self.features = self.body

    def hidden(self, x):
        return 2 * self.features(x)


class WithMethod(Small):
    def features(self, x):
        return self.body(x) + 1

    def forward(self, x):
        return self.fc(self.features(x))


class Exported(WithMethod):
    @torch.jit.export
    def features(self, x):
        return self.body(x) + 1


class Cosine(Small):
    """Its last weights are used by no layer."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(D, K)
        self.weight = nn.Parameter(torch.rand(K, K))

    def forward(self, x):
        return nn.functional.linear(nn.functional.normalize(super().forward(x)), self.weight)


class TwoHeads(Small):
    def __init__(self):
        super().__init__()
        self.second = nn.Linear(D, K)

    def forward(self, x):
        hidden = self.hidden(x)
        return (self.fc(hidden) + self.second(hidden)) / 2


class Averaged(Small):
    """Its head is called for each of two views."""

    def forward(self, x):
        return (super().forward(x) + super().forward(x.flip(3))) / 2


class OtherWidth(Small):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(D, 3)
        self.register_buffer("prototypes", torch.rand(K, 3))

    def forward(self, x):
        return -torch.cdist(self.fc(self.hidden(x)), self.prototypes)


class Tuple(Small):
    def forward(self, x):
        return super().forward(x), x


class Reparametrised(Small):
    """Weights made anew in each pass: by a hook of the layer, as torch did it first, or by a parametrisation."""

    def __init__(self, kind):
        super().__init__()
        kind(self.fc), kind(self.body[0])

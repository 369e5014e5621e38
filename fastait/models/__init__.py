"""Networks. Each takes images in [0, 1], has ``features(x)`` and ``forward(x)``, and normalises as its first step."""

from fastait.models.wide_resnet import Mixing, WideResNet

__all__ = ["Mixing", "WideResNet"]

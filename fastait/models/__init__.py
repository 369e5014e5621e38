"""Networks. Each takes images in [0, 1] and normalises them as its first operation; its ``forward`` makes logits.

``names`` says what ``--model`` may be, ``by_name`` makes it, ``features`` finds what any network's features are. The
names below load when they are first used, so that ``names`` imports no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastait.models.by_name import make, normalization
    from fastait.models.features import Features, feature_function
    from fastait.models.gowal_wide_resnet import GowalWideResNet
    from fastait.models.preact_resnet import PreActResNet18
    from fastait.models.resnet import ResNet18
    from fastait.models.wide_resnet import WideResNet

_HOME = {
    "Features": "features",
    "GowalWideResNet": "gowal_wide_resnet",
    "PreActResNet18": "preact_resnet",
    "ResNet18": "resnet",
    "WideResNet": "wide_resnet",
    "feature_function": "features",
    "make": "by_name",
    "normalization": "by_name",
}

__all__ = [
    "Features",
    "GowalWideResNet",
    "PreActResNet18",
    "ResNet18",
    "WideResNet",
    "feature_function",
    "make",
    "normalization",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"fastait.models.{_HOME[name]}"), name)
    raise AttributeError(f"module 'fastait.models' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

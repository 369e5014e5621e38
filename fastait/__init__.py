"""Fast adversarial interpolation training. The public names; each is imported when it is first used."""

import importlib
from typing import TYPE_CHECKING, Any

from fastait.runtime.version import __version__

if TYPE_CHECKING:
    from fastait.config import TrainConfig
    from fastait.evaluation import evaluate_robustness, load_model, masking_signs
    from fastait.interpolation import adversarial_interpolation
    from fastait.models import WideResNet
    from fastait.recipes import recipe
    from fastait.training.run import resume_training, run_training

_HOME = {
    "TrainConfig": "fastait.config",
    "WideResNet": "fastait.models",
    "adversarial_interpolation": "fastait.interpolation",
    "evaluate_robustness": "fastait.evaluation",
    "load_model": "fastait.evaluation",
    "masking_signs": "fastait.evaluation",
    "recipe": "fastait.recipes",
    "resume_training": "fastait.training.run",
    "run_training": "fastait.training.run",
}

__all__ = [
    "TrainConfig",
    "WideResNet",
    "__version__",
    "adversarial_interpolation",
    "evaluate_robustness",
    "load_model",
    "masking_signs",
    "recipe",
    "resume_training",
    "run_training",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'fastait' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

"""Every published setting as data, with its source.

Where another paper's method was trained there by another schedule or weight decay, the paper's own are kept, so that
methods are compared alike; ``_FROM_PAPERS`` has what belongs to the methods themselves.
"""

import dataclasses
from typing import Any

from fastait.config import TrainConfig
from fastait.methods import METHODS
from fastait.runtime.errors import check_choice
from fastait.runtime.settings import check_names

PAPER_EPOCHS = 200
PAPER_MILESTONES = (60, 90)

_CIFAR = {
    "crop_padding": 4,
    "flip": True,
    "epochs": PAPER_EPOCHS,
    "batch_size": 128,
    "milestones": PAPER_MILESTONES,
    "model": "wrn-28-10",
}
"""Section 4; batch size, weight decay and momentum from the authors' release."""

RECIPES: dict[str, dict[str, Any]] = {
    # Ours, for a first run on two CPU cores. No augmentation: a shift or a flip of a digit hides what is measured here,
    # since natural training on shifted digits is itself hard to fool.
    "digits": {"dataset": "digits"},
    # Section 4.
    "cifar10": {**_CIFAR, "dataset": "cifar10"},
    # Section 4.2; epochs and epsilon_y from its text on CIFAR100.
    "cifar100": {**_CIFAR, "dataset": "cifar100", "epochs": 300, "epsilon_y": 0.9},
    # Section 4: lr 0.01 for SVHN.
    "svhn": {**_CIFAR, "dataset": "svhn", "lr": 0.01},
    # The release of FeatureScatter, whose code this paper's derives from, neither crops nor flips SVHN's images.
    "svhn-unaugmented": {**_CIFAR, "dataset": "svhn", "lr": 0.01, "crop_padding": 0, "flip": False},
    # The FastAT benchmark (Pan & Yao, 2026, arXiv 2604.22853), its configs/cifar10: 49,000 images to train on and 1,000
    # held out. It steps the rate once an epoch and cycles momentum, as torch's scheduler does unless told not to.
    "cifar10-fastat": {
        **_CIFAR,
        "dataset": "cifar10",
        "epochs": 100,
        "schedule": "one-cycle",
        "milestones": None,
        "weight_decay": 5e-4,
        "label_smoothing": 0.4,
        "ema": 0.9995,
        "val_fraction": 0.02,
        "model": "resnet-18",
    },
    # Ours, for records of speed (records/README.md): so short a training needs no crops, which cost it 4 points.
    "cifar10-speedrun": {
        "dataset": "cifar10",
        "method": "n-fgsm",
        "model": "wrn-10-2-s2",
        "flip": True,
        "epochs": 5,
        "batch_size": 64,
        "schedule": "one-cycle",
        "lr": 0.1,
        "nesterov": True,
        "weight_decay": 5e-4,
        "ema": 0.998,
    },
}

_FROM_PAPERS: dict[str, dict[str, Any]] = {
    # Madry et al. (2018), section 5: seven steps of 2/255.
    "madry": {"attack_steps": 7, "step_size": 2 / 255},
    # Zhang et al. (2019), section 5: ten steps; their release: of 2/255.
    "trades": {"attack_steps": 10, "step_size": 2 / 255},
    # Wang et al. (2020): ten steps; their release: 0.007 for a budget of 0.031, TRADES' own, which is 2/255 here too.
    "mart": {"attack_steps": 10, "step_size": 2 / 255},
    # Lamb et al. (2019): Madry's attack; pairs at random as in mixup.
    "iat-mixup": {"attack_steps": 7, "step_size": 2 / 255, "partners": "random"},
    "iat-manifold-mixup": {"attack_steps": 7, "step_size": 2 / 255, "partners": "random"},
    # Zhang et al. (2018) and Verma et al. (2019): pairs at random.
    "mixup": {"partners": "random"},
    "manifold-mixup": {"partners": "random"},
    # The release of Feature-Scatter: one step of epsilon, label smoothing 0.5 on every set; Bilateral: epsilon_y 0.5.
    "feature-scatter": {"epsilon_y": 0.5},
    "bilateral": {"epsilon_y": 0.5},
    # Uesato et al. (2019) attack as Madry does; their number of steps is not known to us.
    "uat": {"attack_steps": 7, "step_size": 2 / 255},
}
"""What methods set themselves; the others are as the recipe says. Strengths are in ``fastait.methods.published``."""

# Section 4: Natural and Madry train for 100 epochs, whatever the data set; the others as the recipe says.
_FEWER_EPOCHS = {"natural": {"epochs": 100}, "madry": {"epochs": 100}}

# Ours: two attacks and two passes a step would otherwise be the one method that digits take over two minutes for.
_SHORT = {"uat": {"epochs": 8, "milestones": (7,)}}

# The FastAT benchmark's own: ten steps of PGD, and NuAT's lambda.
_FASTAT = {"madry": {"attack_steps": 10, "step_size": 2 / 255}, "nu-at": {"penalty": 4.0}}


def _differs(name: str, method: str) -> dict[str, Any]:
    settings = dict(_FROM_PAPERS.get(method, {}))
    if name == "cifar10-fastat":
        plain = {} if METHODS[method].smooths else {"label_smoothing": 0.0}  # labels that it moves itself
        return settings | _FASTAT.get(method, {}) | plain
    return settings | {"digits": _SHORT, "cifar10-speedrun": {}}.get(name, _FEWER_EPOCHS).get(method, {})


BY_METHOD: dict[tuple[str, str], dict[str, Any]] = {
    (name, method): _differs(name, method) for name in RECIPES for method in METHODS
}
"""Where a method's published settings differ from its recipe's."""


def recipe(name: str = "digits", **overrides: Any) -> TrainConfig:
    """The published settings ``name``, with single settings overridden.

    Example:
        ``recipe("cifar10", model="wrn-10-1", epochs=2)``

    Raises:
        InputError: no recipe has this name, or an override is not of its setting's type.
        TypeError: an override is no setting.
    """
    check_names(overrides, (field.name for field in dataclasses.fields(TrainConfig)))
    check_choice("--recipe", name, RECIPES)
    base = TrainConfig(recipe=name, **RECIPES[name])
    asked = dataclasses.replace(base, **overrides)
    settings = {**BY_METHOD.get((name, asked.method), {}), **overrides}
    if asked.schedule != base.schedule:  # the recipe's milestones are those of its own
        settings["milestones"] = overrides.get("milestones")
    return dataclasses.replace(base, **settings)

"""Networks that timm and torchvision know by name, on images in [0, 1]."""

import difflib
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from fastait.models.features import PROBED, find_head, renew_head
from fastait.models.names import ModelName, parse
from fastait.models.normalised import normalised
from fastait.models.trial import try_on_images
from fastait.runtime.errors import InputError, first_line

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

INCEPTIONS = ("googlenet", "inception_v3")
"""Networks of torchvision that must be told to return logits alone, and that, with its weights, turn ImageNet's
normalisation into that of [-1, 1]: they are given that at once."""


def of_library(name: ModelName, num_classes: int, image_size: int, pretrained: bool) -> nn.Module:
    """The network of a library, tried on images.

    Args:
        name: of kind ``timm`` or ``torchvision``; ``check_registered`` knows it.
        num_classes: width of the logits.
        image_size: height and width of the images; networks of a fixed size are made for it.
        pretrained: with the library's weights. A last layer for other classes is drawn anew.

    Raises:
        InputError: the network does not take such images, or its weights cannot be had.
    """
    build = _of_timm if name.kind == "timm" else _of_torchvision
    try:
        model = build(name.name, num_classes, image_size, False)
    except Exception as error:  # whatever a library raises
        raise InputError(
            f"--model {name} cannot be made for images of {image_size}x{image_size}: {first_line(error)}"
        ) from None
    try_on_images(model, str(name), num_classes, image_size)
    if pretrained:
        try:
            model = build(name.name, num_classes, image_size, True)
        except Exception as error:  # of networks, files and sizes, by several packages
            raise InputError(
                f"--pretrained: weights of {name} cannot be had ({first_line(error)}); without internet they must lie "
                "where the library keeps them (HF_HOME and TORCH_HOME say where)"
            ) from None
    return model


def pretrained_classes(text: str) -> int:
    """How many classes the weights tell apart that ``--pretrained`` gives the network called ``text``."""
    name = parse(text)
    if name.kind == "timm":
        import timm

        registered = timm.get_pretrained_cfg(name.name)
        return registered.num_classes if registered is not None else 0
    from torchvision import models

    return len(models.get_model_weights(name.name).DEFAULT.meta["categories"])


def check_registered(name: ModelName) -> None:
    """Raise an InputError unless the library is there and knows a classifier called ``name``."""
    try:
        if name.kind == "timm":
            import timm

            known = timm.list_models()
            if "." in name.name:  # architecture.weights
                known = timm.list_models(include_tags=True)
        else:
            from torchvision import models

            known = models.list_models(module=models)  # the classifiers
    except ImportError as error:
        extra = "timm" if name.kind == "timm" else "train"
        raise InputError(
            f"--model {name}: {name.kind} cannot be imported ({first_line(error)}); pip install 'fastait[{extra}]'"
        ) from None
    if name.name not in known:
        raise InputError(f"--model {name}: {name.kind} has no classifier of that name{_near(name, known)}")


def _near(name: ModelName, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(name.name, known, n=3)
    return f"; did you mean {' or '.join(f'{name.kind}:{other}' for other in found)}?" if found else ""


def _of_timm(name: str, num_classes: int, image_size: int, pretrained: bool) -> nn.Module:
    import timm

    registered = timm.get_pretrained_cfg(name)
    fixed = registered is not None and registered.fixed_input_size
    options: dict[str, Any] = {"pretrained": pretrained, "num_classes": num_classes}
    sized: dict[str, Any] = {"img_size": image_size} if fixed else {}
    try:
        model = timm.create_model(name, **options, **sized)
    except TypeError as error:
        if not fixed or "img_size" not in str(error):
            raise
        model = timm.create_model(name, **options)  # its one size may be the images'
    described: Any = model.pretrained_cfg
    return normalised(model, described["mean"], described["std"])


def _of_torchvision(name: str, num_classes: int, image_size: int, pretrained: bool) -> nn.Module:
    from torchvision import models

    options: dict[str, Any] = {}
    if name.startswith("vit_"):
        options["image_size"] = image_size
    elif name.startswith("maxvit"):
        options["input_size"] = (image_size, image_size)
    available = list(models.get_model_weights(name))
    weights = models.get_model_weights(name).DEFAULT if available else None
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    if weights is not None:
        prepared = weights.transforms()
        mean, std = prepared.mean, prepared.std
    if name in INCEPTIONS:
        mean = std = (0.5, 0.5, 0.5)
        options["transform_input"] = False
    if not pretrained:
        if name in INCEPTIONS:
            options |= {"aux_logits": False, "init_weights": True}
        return normalised(models.get_model(name, weights=None, num_classes=num_classes, **options), mean, std)
    if weights is None:
        raise ValueError("torchvision has none")
    model: Any = models.get_model(name, weights=weights, progress=False, **options)
    if name in INCEPTIONS:
        model.aux_logits = False
        for part in ("aux1", "aux2", "AuxLogits"):
            if hasattr(model, part):
                setattr(model, part, None)
    if len(weights.meta["categories"]) != num_classes:
        sample = torch.zeros(PROBED, 3, image_size, image_size)
        renew_head(model, find_head(model, sample), num_classes)
    return normalised(model, mean, std)

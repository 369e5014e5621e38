"""The network that a run begins with."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from fastait.checkpoints.architectures import differences, last_layer, other_network
from fastait.checkpoints.classes import match
from fastait.checkpoints.weights import About, read_weights
from fastait.config import TrainConfig
from fastait.models import make, normalization
from fastait.models.features import PROBED, find_head
from fastait.models.libraries import pretrained_classes
from fastait.runtime.errors import InputError
from fastait.runtime.randomness import derive


def first_network(
    config: TrainConfig, classes: tuple[str, ...], note: Callable[[str], None], *, allow_own: bool, begun: bool = False
) -> nn.Module:
    """The network of ``config`` as its first step finds it, in train mode, in fp32 on the CPU.

    Args:
        config: network, image size, seed, and what its weights are at first.
        classes: names of those that it tells apart.
        note: is told, a line each, what becomes of weights that were another network's.
        allow_own: see ``models.make``.
        begun: weights will be loaded, so that none are drawn or read.

    Raises:
        InputError: there is no such network, or the weights are not there or are another one's.
    """
    model = make(
        config.model,
        len(classes),
        image_size=config.image_size,
        generator_seed=None if begun else derive(config.seed, "weights"),
        pretrained=config.pretrained and not begun,
        allow_own=allow_own,
    )
    if begun:
        return model
    if config.pretrained and (theirs := pretrained_classes(config.model)) != len(classes):
        note(
            f"--pretrained: the weights of {config.model} tell {theirs} classes apart, the data set has "
            f"{len(classes)}, so the last layer is drawn anew"
        )
    if config.init_from is not None:
        _load(model, config, classes, note)
    return model


def refuse_other_weights(model: nn.Module, name: str, weights: dict[str, Tensor], file: Path) -> None:
    """Raise an InputError unless the network called ``name`` still has the weights that ``file`` holds of it."""
    if wrong := differences(model.state_dict(), weights):
        raise InputError(f"{file} does not fit {name}, whose code has changed since: {wrong}")


def black(size: int) -> Tensor:
    """Images to try a network on: float32 [2, 3, ``size``, ``size``], on the CPU."""
    return torch.zeros(PROBED, 3, size, size, dtype=torch.float32)


def _load(model: nn.Module, config: TrainConfig, classes: tuple[str, ...], note: Callable[[str], None]) -> None:
    """Give ``model`` the weights in ``--init-from``."""
    where = f"--init-from {config.init_from}"
    weights, about = read_weights(config.init_from)  # type: ignore[arg-type]
    stated = f"its file says that its network is {about.network}" if about.network not in (None, config.model) else ""
    own = model.state_dict()
    last = _last_layer(model, config)
    other = [name for name in last if name in weights and weights[name].shape != own[name].shape]
    outputs = {len(weights[name]) for name in other if weights[name].dim()}
    renewed = len(outputs) == 1 and outputs != {len(classes)}
    compared = {name for name in own if not (renewed and name in last)}
    kept = {name: weights[name] for name in weights if not (renewed and name in last)}
    if wrong := differences({name: own[name] for name in compared}, kept):
        raise InputError(
            f"{where} does not fit {config.model} with {len(classes)} classes: {wrong}"
            + (f"; {stated}" if stated else other_network(weights, config.model))
        )
    if stated and last_layer(str(about.network)) and last_layer(config.model):  # variants whose names are the same
        raise InputError(f"{where} does not fit {config.model}: {stated}")
    if renewed:
        (theirs,) = outputs
        note(
            f"{where}: its network tells {theirs} classes apart, the data set has {len(classes)}, so the last layer is "
            "drawn anew"
        )
        weights = {**weights, **{name: own[name] for name in last}}
    else:
        # What a layer makes its weights of, a norm for example, has other orders.
        rows = last if {name.rpartition(".")[2] for name in last} <= {"weight", "bias"} else set()
        weights = _for_classes(weights, about, where, classes, rows, note)
    model.load_state_dict(weights)
    if about.normalization is not None and normalization(model) not in (None, about.normalization):
        raise InputError(f"{where}: its network normalises images otherwise than {config.model} does")


def _last_layer(model: nn.Module, config: TrainConfig) -> set[str]:
    """The names of what belongs to the layer that makes the logits; none where no single layer makes them."""
    try:
        places = find_head(model, black(config.image_size)).places
    except InputError:
        return set()
    return {name for name in model.state_dict() if any(_within(name, place) for place in places)}


def _within(name: str, place: str) -> bool:
    """Whether a weight belongs to the layer called ``place``, as ``tapped.places`` has it: without wrappers."""
    plain = ".".join(part for part in name.split(".") if part not in ("module", "_orig_mod"))
    return not place or plain.startswith(f"{place}.")


def _for_classes(
    weights: dict[str, Tensor],
    about: About,
    where: str,
    classes: tuple[str, ...],
    last: set[str],
    note: Callable[[str], None],
) -> dict[str, Tensor]:
    """``weights`` with the last layer's outputs in the order of ``classes``, if they are of the same ones."""
    if about.classes is not None and len(about.classes) != len(classes):
        raise InputError(f"{where}: it names {len(about.classes)} classes for other outputs")
    try:
        found = match(about.classes, len(classes), classes)
    except InputError as error:  # other classes: what fine-tuning usually is
        note(f"{where}: {error}; the last layer's weights begin as they are, by position")
        return weights
    order = list(found.columns)
    if order != sorted(order) and not last:
        note(f"{where}: {found.note}, but no single layer makes the logits, so they stay as they are, by position")
        return weights
    if found.note:
        note(f"{where}: {found.note}")
    return {**weights, **{name: weights[name][order] for name in last}}

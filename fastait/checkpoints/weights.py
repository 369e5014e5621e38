"""Weights in safetensors files, with what they must not be parted from: what their network takes and tells apart."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fastait.checkpoints.architectures import differences, last_layer, on_meta, other_network
from fastait.checkpoints.sealed import Damaged, opened, sealed
from fastait.models.by_name import make
from fastait.models.features import PROBED, find_head
from fastait.models.names import parse
from fastait.runtime.errors import InputError, words
from fastait.runtime.files import json_of

Network = TypeVar("Network", bound=nn.Module)

LARGEST = 4096
"""Pixels that a side of an image can have: a network of a fixed size is made for what a file says."""


class OtherNetwork(InputError):
    """Weights are of another network than the one that was named."""


@dataclass(frozen=True)
class About:
    """What a file says of the weights that it holds; None where it says nothing.

    Attributes:
        network: its name, as ``--model`` has it.
        classes: the names of its outputs, in order.
        normalization: mean and standard deviation per channel by which it normalises images in [0, 1].
        image_size: height and width of the images that it was trained on.
    """

    network: str | None = None
    classes: tuple[str, ...] | None = None
    normalization: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    image_size: int | None = None


def packed(weights: dict[str, Tensor], about: About) -> bytes:
    """A safetensors file, the same bytes for the same weights."""
    metadata = {}
    if about.network is not None:
        metadata["network"] = about.network
    if about.classes is not None:
        metadata["classes"] = json.dumps(about.classes)
    if about.normalization is not None:
        mean, std = about.normalization
        metadata["normalization"] = json.dumps({"images": "RGB in [0, 1]", "mean": mean, "std": std})
    if about.image_size is not None:
        metadata["image_size"] = json.dumps(about.image_size)
    return sealed(weights, metadata)


def read_weights(path: Path) -> tuple[dict[str, Tensor], About]:
    """A state dict from a safetensors file, and what the file says of it.

    Raises:
        InputError: there is no such file, it is no safetensors file, its checksum is of something else, or what it says
            is malformed.
    """
    if os.path.isdir(path):  # which is False, no exception, for a path that cannot be
        raise InputError(f"{path} is a folder, where a file is needed; a run's weights are its model.safetensors")
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such file of weights")
    try:
        weights, metadata = opened(path.read_bytes())  # the library itself opens no path that is not UTF-8
    except (OSError, Damaged) as error:
        raise InputError(f"{path} is no safetensors file that can be used: {words(error, 200)}") from None
    return weights, _about(metadata, path)


def load_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from a safetensors file.

    Raises:
        As ``read_weights``.
    """
    return read_weights(path)[0]


@dataclass(frozen=True)
class Named:
    """A network and how it was made.

    Attributes:
        network: it.
        name: what ``--model`` calls it.
        num_classes: how many classes it tells apart.
        image_size: of the images that it was made for.
        allow_own: whether a function of the user's own may be called.
    """

    network: nn.Module
    name: str
    num_classes: int
    image_size: int
    allow_own: bool


def blank(name: str, num_classes: int, *, image_size: int, allow_own: bool) -> Named:
    """The network called ``name`` for ``filled``: one of this package without memory, others as ``models.make`` does.

    Args:
        name: see ``models.names.parse``.
        num_classes: how many it tells apart, for a start: ``filled`` finds out how many its weights do.
        image_size: height and width of the images that it is made for.
        allow_own: see ``models.make``.

    Raises:
        InputError: there is no such network.
    """
    if last_layer(name) is None:
        options: dict[str, Any] = {"image_size": image_size, "generator_seed": None, "allow_own": allow_own}
        network = make(name, num_classes, **options)
    else:
        network = on_meta(name, num_classes)
    return Named(network, name, num_classes, image_size, allow_own)


def filled(made: Named, weights: Mapping[str, Tensor]) -> Named:
    """A blank network with its weights, in eval mode, contiguous; for as many classes as they tell apart.

    One of this package holds the weights themselves, in fp32, and takes no memory besides. Nothing is drawn.

    Args:
        made: by ``blank``; not to be used any more.
        weights: its state dict.

    Raises:
        OtherNetwork: they are another network's.
        InputError: the network cannot be made for so many classes.
    """
    wrong = differences(made.network.state_dict(), weights)
    if wrong and (rows := _rows_of_last_layer(made, weights)) not in (None, made.num_classes):
        made = blank(made.name, rows, image_size=made.image_size, allow_own=made.allow_own)
        wrong = differences(made.network.state_dict(), weights)
    if wrong:
        raise OtherNetwork(f"the weights are not those of {made.name}: {wrong}{other_network(weights, made.name)}")
    own = made.network.state_dict()
    try:
        with torch.inference_mode(False):
            state = {name: _as(weights[name], own[name].dtype) for name in weights}
            made.network.load_state_dict(state, assign=last_layer(made.name) is not None)
            network = contiguous(made.network)
            network.eval()
            return replace(made, network=network)
    except (RuntimeError, MemoryError) as error:
        raise InputError(f"the weights cannot be used: {words(error, 200)}") from None


def classes_guessed(weights: Mapping[str, Tensor]) -> int:
    """How many classes a state dict's last matrix tells apart: most networks' logits are made by it."""
    rows = [len(value) for value in weights.values() if value.dim() == 2]
    return max(2, rows[-1]) if rows else 2


def _rows_of_last_layer(made: Named, weights: Mapping[str, Tensor]) -> int | None:
    """How many logits the weights make; None if that cannot be seen."""
    last = last_layer(made.name)
    if last is None:
        try:
            images = torch.zeros(PROBED, 3, made.image_size, made.image_size, dtype=torch.float32, device="cpu")
            last = find_head(made.network, images).places[0]
        except InputError:
            return None
    rows = weights.get(f"{last}.weight" if last else "weight")
    return len(rows) if rows is not None and rows.dim() in (2, 4) and len(rows) > 1 else None


def _as(weight: Tensor, dtype: torch.dtype) -> Tensor:
    weight = weight.detach().to(dtype).contiguous()
    return weight.clone() if weight.is_inference() else weight


def contiguous(model: Network) -> Network:
    """``model`` with its weights laid out as PyTorch's layers are at first, whatever they were trained in.

    Its outputs are then laid out so too, which code that calls ``view`` on them needs.
    """
    for parameter in model.parameters():
        if parameter.dim() == 4:
            # A 1x1 kernel is contiguous in both layouts; its strides decide the output's all the same.
            parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
    return model


def class_names(value: Any) -> tuple[str, ...]:
    """``value``, decoded from JSON, as names of classes.

    Raises:
        ValueError: it is no list of texts.
    """
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        raise ValueError("classes must be a list of names")
    return tuple(value)


def _about(metadata: dict[str, str], path: Path) -> About:
    """What our metadata say; nothing of another program's, which may have the same keys for something else."""
    network = _named(metadata.get("network"))
    if network is None and "network" in metadata:
        return About()
    try:
        decoded = {key: json_of(metadata[key]) for key in ("classes", "normalization", "image_size") if key in metadata}
        classes = class_names(decoded["classes"]) if "classes" in decoded else None
        stated = stated_normalization(decoded["normalization"]) if "normalization" in decoded else None
        size = stated_size(decoded["image_size"]) if "image_size" in decoded else None
    except (ValueError, TypeError, KeyError) as error:
        if network is None:
            return About()
        raise InputError(f"{path}: the file's metadata are damaged: {words(error, 200)}") from None
    return About(network, classes, stated, size)


def _named(network: str | None) -> str | None:
    """A network's name; None for what is no name of ours, as another program may have written it."""
    if network is not None:
        network = network.lower() if network.startswith("WRN-") else network  # as version 0.1 wrote it
        try:
            parse(network)
        except InputError:
            return None
    return network


def stated_size(value: Any) -> int:
    """``value``, decoded from JSON, as height and width of images.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST:
        raise ValueError(f"image_size must be a whole number from 1 to {LARGEST}")
    return value


def stated_normalization(value: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """``value``, decoded from JSON, as mean and standard deviation per channel.

    Raises:
        ValueError, TypeError, KeyError: it is none.
    """
    found = []
    for key in ("mean", "std"):
        numbers = tuple(float(number) for number in value[key])
        if len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers)) or (key == "std" and min(numbers) <= 0):
            raise ValueError(f"{key} must be three numbers")
        found.append(numbers)
    return found[0], found[1]

"""Weights in safetensors files, with what they must not be parted from: what their network takes and tells apart."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from fastait.models import WideResNet
from fastait.runtime.errors import InputError, words

Network = TypeVar("Network", bound=nn.Module)

OURS = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Mean and standard deviation that ``WideResNet`` normalises by: images in [0, 1] become [-1, 1]."""


@dataclass(frozen=True)
class About:
    """What a file says of the weights that it holds; None where it says nothing.

    Attributes:
        network: its name, such as WRN-28-10.
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
    data = save({name: tensor.contiguous() for name, tensor in weights.items()}, metadata)
    return _in_order(data) if metadata else data


def _in_order(data: bytes) -> bytes:
    """The library writes its metadata in an order of its own each time."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def read_weights(path: Path) -> tuple[dict[str, Tensor], About]:
    """A state dict from a safetensors file, and what the file says of it.

    Raises:
        InputError: there is no such file, it is no safetensors file, or what it says is malformed.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file of weights")
    try:
        data = path.read_bytes()  # the library itself opens no path that is not UTF-8
        weights = load(data)
        size = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + size]).get("__metadata__") or {}
    # A file whose header lies makes torch raise too.
    except (SafetensorError, OSError, RuntimeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is no safetensors file: {words(error, 200)}") from None
    return weights, _about(metadata, path)


def load_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from a safetensors file.

    Raises:
        As ``read_weights``.
    """
    return read_weights(path)[0]


def wide_resnet(depth: int, widen_factor: int, weights: dict[str, Tensor]) -> WideResNet:
    """The network of these weights, which it holds itself, in eval mode. Draws nothing and takes no memory besides.

    Raises:
        InputError: they are not those of such a network.
    """
    try:
        with torch.device("meta"):
            model = WideResNet(depth, widen_factor, len(weights["fc.bias"]))
        model.load_state_dict(weights, assign=True)
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        why = words(error, 200)
        raise InputError(f"the weights are not those of WRN-{depth}-{widen_factor}: {why}") from None
    return contiguous(model).eval()


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
    try:
        classes = class_names(json.loads(metadata["classes"])) if "classes" in metadata else None
        normalization = _normalization(json.loads(metadata["normalization"])) if "normalization" in metadata else None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{path}: the file's metadata are damaged: {words(error, 200)}") from None
    return About(metadata.get("network"), classes, normalization)


def _normalization(value: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    found = []
    for key in ("mean", "std"):
        numbers = tuple(float(number) for number in value[key])
        if len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers)) or (key == "std" and min(numbers) <= 0):
            raise ValueError(f"{key} must be three numbers")
        found.append(numbers)
    return found[0], found[1]

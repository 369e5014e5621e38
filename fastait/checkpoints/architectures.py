"""Which network of this package a state dict is of, read off the names and shapes of its weights."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastait.checkpoints.classes import LENGTH
from fastait.models.apart import apart
from fastait.models.by_name import built_in
from fastait.models.names import parse
from fastait.runtime.errors import InputError

WIDE = "block1.layer.0.conv1.weight"
GOWAL = "layer.0.block.0.conv_0.weight"
RESNET = "layer1.0.conv1.weight"

STEMS = (WIDE, GOWAL, RESNET)
"""A network is where one of these is, under whatever prefix."""

DEPTHS: dict[tuple[tuple[int, ...], bool], int] = {
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
    ((3, 8, 36, 3), True): 152,
}
"""Of ResNets, by the number of blocks of each layer and whether those have three convolutions."""


@dataclass(frozen=True)
class Shown:
    """What weights show.

    Attributes:
        title: what the architecture is called, such as ResNet-34.
        names: those that ``--model`` has for it; several where the variants' parameters have the same names, none where
            it is not one of this package's.
    """

    title: str
    names: tuple[str, ...] = ()


def shown(weights: Mapping[str, Tensor]) -> Shown | None:
    """What a state dict shows by RobustBench's names, without a prefix; None for other names.

    Nothing says yet that all of its weights are such a network's.
    """
    if WIDE in weights:
        return _wide(weights, WIDE, "block1.layer.", ("",))
    if GOWAL in weights:
        return _wide(weights, GOWAL, "layer.0.block.", ("-silu", "-relu"))
    if RESNET in weights and "linear.weight" in weights:
        return _resnet(weights)
    return None


def last_layer(name: str) -> str | None:
    """What the layer that makes the logits is called in the network of this name; None if it is not this package's."""
    kind = parse(name).kind
    if kind == "wrn":
        return "fc"
    if kind.startswith("wrn-"):
        return "logits"
    return "linear" if kind.startswith(("resnet", "preact")) else None


def _wide(weights: Mapping[str, Tensor], stem: str, blocks: str, variants: tuple[str, ...]) -> Shown | None:
    place = blocks.count(".")
    count = len({name.split(".")[place] for name in weights if name.startswith(blocks)})
    size = weights[stem].shape
    wide = f"{6 * count + 4}-{size[0] // 16 if size else 0}"
    names = tuple(f"wrn-{wide}{variant}" for variant in variants)
    try:
        for name in names:
            parse(name)
    except InputError:  # no such depth or width can be
        return None
    return Shown(f"WRN-{wide}", names)


def _resnet(weights: Mapping[str, Tensor]) -> Shown:
    layers = tuple(
        len({name.split(".")[1] for name in weights if name.startswith(f"layer{layer}.")}) for layer in (1, 2, 3, 4)
    )
    activated_first = "bn1.weight" not in weights  # there is no BN before the first block
    kind = "PreActResNet" if activated_first else "ResNet"
    depth = DEPTHS.get((layers, "layer1.0.conv3.weight" in weights))
    if depth is None:
        return Shown(f"{kind} of {'+'.join(map(str, layers))} blocks")
    if depth != 18:
        return Shown(f"{kind}-{depth}")
    if not activated_first:
        return Shown("ResNet-18", ("resnet-18",))
    bn = "-bn" if "bn.weight" in weights else ""
    return Shown("PreActResNet-18", (f"preact-resnet-18{bn}", f"preact-resnet-18-v2{bn}"))


def differences(network: nn.Module, weights: Mapping[str, Tensor]) -> str:
    """Which weights are missing, too many or of other shapes or kinds, for a message; empty if none are."""
    own = network.state_dict()
    both = sorted(own.keys() & weights.keys())
    shapes = [
        f"{name} ({_shape(weights[name])}, needed {_shape(own[name])})"
        for name in both
        if weights[name].shape != own[name].shape
    ]
    kinds = [
        name
        for name in both
        if weights[name].is_floating_point() != own[name].is_floating_point() or weights[name].layout != torch.strided
    ]
    found = {
        "without": sorted(own.keys() - weights.keys()),
        "with": sorted(weights.keys() - own.keys()),
        "with other shapes of": shapes,
        "with other numbers than fp32 in": kinds,
    }
    return "; ".join(
        f"{what} {', '.join(name[:LENGTH] for name in names[:3])}{' and others' if len(names) > 3 else ''}"
        for what, names in found.items()
        if names
    )


def on_meta(name: str, num_classes: int) -> nn.Module:
    """One of this package's networks without memory. Draws nothing."""
    with apart(None), torch.device("meta"):
        return built_in(parse(name), num_classes)


def fitting(weights: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The names of this package's networks that a state dict is of, all of it."""
    found = shown(weights)
    fit = []
    for name in found.names if found else ():
        rows = weights.get(f"{last_layer(name)}.weight")
        if rows is not None and rows.dim() == 2 and len(rows) > 1:
            fit += [name] if not differences(on_meta(name, len(rows)), weights) else []
    return tuple(fit)


def other_network(weights: Mapping[str, Tensor], name: str) -> str:
    """Which other network than ``name`` a state dict is of, for the end of a message; empty if none shows."""
    if names := fitting(weights):
        return f"; they are those of {' or '.join(names)}"
    found = shown(weights)
    if found is not None and not found.names:
        return f"; they are those of a {found.title}, which has no name here"
    if found is not None and name not in found.names:
        return f"; they are more like those of {' or '.join(found.names)}"
    return ""


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"

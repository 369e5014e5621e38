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

COUNTER = "num_batches_tracked"
"""What BN counts; older files have none."""

DEPTHS: dict[tuple[tuple[int, ...], bool], int] = {
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
    ((3, 8, 36, 3), True): 152,
}
"""Of ResNets, by the number of blocks of each layer and whether those have three convolutions."""


@dataclass(frozen=True)
class Architecture:
    """What weights show.

    Attributes:
        title: what the architecture is called, such as ResNet-34.
        names: those that ``--model`` has for it; several where the variants' parameters have the same names, none where
            it is not one of this package's.
    """

    title: str
    names: tuple[str, ...] = ()


def architecture(weights: Mapping[str, Tensor]) -> Architecture | None:
    """What a state dict shows by RobustBench's names, without a prefix; None for other names.

    Nothing says yet that all of its weights are such a network's.
    """
    if WIDE in weights:
        strided = "conv1.weight" in weights and weights["conv1.weight"].shape[2:] == (4, 4)
        return _wide(weights, WIDE, "block1.layer.", ("-s2" if strided else "",))
    if GOWAL in weights:
        return _wide(weights, GOWAL, "layer.0.block.", ("-silu", "-relu"))
    if RESNET in weights and "linear.weight" in weights:
        return _resnet(weights)
    return None


def last_layer(name: str) -> str | None:
    """What the layer that makes the logits is called in the network of this name; None if it is not this package's."""
    kind = parse(name).kind
    if kind in ("wrn", "wrn-s2"):
        return "fc"
    if kind.startswith("wrn-"):
        return "logits"
    return "linear" if kind.startswith(("resnet", "preact")) else None


def _wide(weights: Mapping[str, Tensor], stem: str, blocks: str, variants: tuple[str, ...]) -> Architecture | None:
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
    return Architecture(f"WRN-{wide}", names)


def _resnet(weights: Mapping[str, Tensor]) -> Architecture:
    layers = tuple(
        len({name.split(".")[1] for name in weights if name.startswith(f"layer{layer}.")}) for layer in (1, 2, 3, 4)
    )
    activated_first = "bn1.weight" not in weights  # there is no BN before the first block
    kind = "PreActResNet" if activated_first else "ResNet"
    depth = DEPTHS.get((layers, "layer1.0.conv3.weight" in weights))
    if depth is None:
        return Architecture(f"{kind} of {'+'.join(map(str, layers))} blocks")
    if depth != 18:
        return Architecture(f"{kind}-{depth}")
    if not activated_first:
        return Architecture("ResNet-18", ("resnet-18",))
    bn = "-bn" if "bn.weight" in weights else ""
    return Architecture("PreActResNet-18", (f"preact-resnet-18{bn}", f"preact-resnet-18-v2{bn}"))


def differences(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    """Which weights, where ``own`` are a network's, are missing, too many or of other shapes or kinds, for a message;
    empty if none are."""
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


def optional(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What files of others may lack of a network's state dict: BN's counts, numbers that images are normalised by."""
    return {name: value for name, value in own.items() if name.endswith(COUNTER) or name in ("mean", "std")}


def fitting(weights: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The names of this package's networks that a state dict is of, but for what files of others lack."""
    found = architecture(weights)
    fit = []
    for name in found.names if found else ():
        rows = weights.get(f"{last_layer(name)}.weight")
        if rows is not None and rows.dim() == 2 and len(rows) > 1:
            own = on_meta(name, len(rows)).state_dict()
            fit += [name] if not differences(own, {**optional(own), **weights}) else []
    return tuple(fit)


def other_network(weights: Mapping[str, Tensor], name: str) -> str:
    """Which other network than ``name`` a state dict is of, for the end of a message; empty if none shows."""
    found = architecture(weights)
    if found is None or name in found.names:
        return ""
    if not found.names:
        return f"; they are those of a {found.title}, which has no name here"
    if fit := fitting(weights):
        return f"; they are those of {' or '.join(fit)}"
    return f"; they are more like those of {' or '.join(found.names)}"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"

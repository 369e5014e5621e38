"""What methods of the mixup family draw, and which networks they can mix in."""

import torch
from torch import Tensor, nn

from fastait.attacks import frozen
from fastait.methods import METHODS, Mixup
from fastait.models.mixing import Mixing, Partners, mixed, mixing_places
from fastait.models.tapped import places
from fastait.runtime.errors import InputError, first_line
from fastait.runtime.randomness import uniform


def draw_mixing(mixup: Mixup, seed: int, step: int) -> tuple[int, float]:
    """The layer that is mixed in a step, below ``mixup.layers``, and each image's own share there.

    The share is from Beta(alpha, alpha): the middle one of 2 alpha - 1 uniform numbers is so distributed.
    """
    layer, *rest = uniform(seed, step, 2 * mixup.alpha)
    return int(layer * mixup.layers), sorted(rest)[mixup.alpha - 1]


def mixed_layers(method: str) -> int:
    """At how many places a method of ``METHODS`` mixes, the input counted; none if 0."""
    return max((term.mixing.layers for term in METHODS[method].terms if term.mixing is not None), default=0)


def check_mixing(model: nn.Module, name: str, method: str, sample: Tensor) -> None:
    """Raise an InputError unless ``model`` can be mixed wherever ``method`` does so.

    Args:
        model: as it is to be trained; nothing of it is changed.
        name: what the message calls it.
        method: of ``METHODS``.
        sample: float [B, C, H, W], images that it takes, on its device.
    """
    inside, found = mixed_layers(method) - 1, mixing_places(model)
    if inside > len(found):
        raise InputError(
            f"--method {method} mixes at the outputs of {inside} blocks of a network, and {name} does not say "
            "of which: its class needs mixing_places, names of its submodules. wrn-D-W, wrn-D-W-silu, resnet-18 and "
            "preact-resnet-18 have them; mixup and iat-mixup mix at the input of any network"
        )
    known = {place for place, _ in places(model)}
    for layer in range(1, inside + 1):
        place = found[layer - 1]
        if place not in known:
            raise InputError(f"{name} has no submodule {place!r}, which its mixing_places name")
        own = torch.zeros((), dtype=torch.float32, device=sample.device)
        try:
            with frozen(model), torch.no_grad():
                mixed(model, sample, Mixing(layer, own, Partners()))
        except Exception as error:  # whatever a network raises
            raise InputError(f"{name} cannot be mixed at {place}: {first_line(error)}") from None

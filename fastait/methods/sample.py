"""A batch as the parts of a method see it, and who is whose partner in it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from fastait.attacks import Noise
from fastait.models.mixing import Mixing, Partners

FeatureFn = Callable[[Tensor], Tensor]
"""Images [B, C, H, W] -> features [B, ...]."""


class Partner(Protocol):
    """A tensor [B, ...] of a batch -> the rows of each image's partner, in the same memory format."""

    def __call__(self, t: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class Sample:
    """What a term of a method works on.

    Attributes:
        x: float [B, C, H, W] in [0, 1].
        y: int64 [B]; of images without labels it says nothing.
        noise: where random starts come from.
        partner: who is whose.
        counts: see ``fastait.attacks.sign_step``.
        features: the network's; None if no term asks for them.
        mixing: how the network mixes pairs; None if it does not.
        scores: float [B, K], the frozen model's logits of ``x``, for the label part; None if the image part made none.
        earlier: the logits [B, K] that the method's terms before this one are trained on.
        number: int64 [1], the step's, counted over all epochs.
        network: what makes the logits, as it is written and not compiled; None for the model that a part is given.
    """

    x: Tensor
    y: Tensor
    noise: Noise
    partner: Partner
    counts: Tensor | None = None
    features: FeatureFn | None = None
    mixing: Mixing | None = None
    scores: Tensor | None = None
    earlier: tuple[Tensor, ...] = ()
    number: Tensor | None = None
    network: nn.Module | None = None


def reversed_batch(t: Tensor) -> Tensor:
    """Algorithm 1's partners: the rows in reverse order. An odd batch pairs its middle row with itself."""
    return t.flip(0)


def choose_partners(how: str, y: Tensor, noise: Noise) -> Partners:
    """Who is whose partner in a batch of classes ``y``, int64 [B]; nothing is read from the device.

    ``reversed`` is Algorithm 1's. ``random`` is a permutation, in which an image may be its own partner.
    ``other-class`` gives each image any one of another class, alike probable; where there is none, the image itself.
    """
    if how == "reversed":
        return Partners()
    places = torch.arange(len(y), device=y.device)
    if how == "random":
        index = noise.uniform(len(y)).argsort(stable=True)
        return Partners(index, torch.empty_like(index).scatter_(0, index, places))
    others = y[:, None] != y
    chosen = noise.uniform(len(y), len(y)).masked_fill(~others, -1).argmax(dim=1)
    return Partners(torch.where(others.any(dim=1), chosen, places))

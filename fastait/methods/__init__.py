"""The paper's table 7 as code: a method is a way to move images times a way to move labels.

This module is data and imports nothing heavy. ``images`` and ``labels`` name functions of ``fastait.methods.images``
and ``fastait.methods.labels``.
"""

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastait.methods.images import ImagePart
    from fastait.methods.labels import LabelPart


@dataclass(frozen=True)
class Settings:
    """What methods need to know beside the batch.

    Attributes:
        epsilon: radius of the Linf ball on images in [0, 1].
        epsilon_y: the paper's label budget, in [0, 1).
        steps: attack iterations, the paper's L.
        step_size: length of an attack's step, in the units of ``epsilon``.
        num_classes: the paper's C.
        at_a_time: attack no more images than this together; None for the whole batch.
    """

    epsilon: float
    epsilon_y: float
    steps: int
    step_size: float
    num_classes: int
    at_a_time: int | None = None


@dataclass(frozen=True)
class Method:
    """One way to train: the names of its image part and label part, and where it is published."""

    images: str
    labels: str
    source: str

    def image_part(self) -> "ImagePart":
        """The function that moves a batch of images."""
        return getattr(importlib.import_module("fastait.methods.images"), self.images)

    def label_part(self) -> "LabelPart":
        """The function that measures the loss against a batch's moved labels."""
        return getattr(importlib.import_module("fastait.methods.labels"), self.labels)


METHODS: dict[str, Method] = {
    "adv-interp": Method("adversarial_interpolation", "adversarial_interpolation", "the paper, Algorithm 1"),
    "madry": Method("pgd", "classes", "Madry et al., 2018"),
    "natural": Method("clean", "classes", "standard training (Krizhevsky et al., 2012)"),
}

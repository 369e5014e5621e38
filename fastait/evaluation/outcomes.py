"""What an evaluation finds out of each image."""

from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

CLEAN = "clean"
"""The column of the images as they are."""

MARGIN = "margin of clean"
"""The true class's logit less the largest other one, in ``MARGIN_UNIT``, of the images as they are."""
MARGIN_UNIT = 1e-4

NO_CLASS = -1
"""Where the logits are not finite, and where a journal of an older version did not write the class down."""


@dataclass(frozen=True)
class Outcomes:
    """What ``evaluate`` found, on the CPU.

    Attributes:
        correct: {"clean" or an attack's name: bool [N], whether the image is classified correctly}.
        queries: {a black-box attack's name: int64 [N], how many images were scored for each}.
        not_finite: {an attack's name: bool [N], whether the logits that decided were NaN or infinite}, of those
            attacks that found such; these images are not classified correctly.
        classes: {"clean" or an attack's name: int64 [N], what the model takes the image for}, or ``NO_CLASS``.
        margins: {"clean": int64 [N], see ``MARGIN``}.
        stages: {AutoAttack or a part of it, restarts, the worst of several: the names of its stages, in order}.
        decided: {the same: int64 [N], by which of its stages the image was fooled; 0 if it withstood all, -1 if
            AutoAttack is in it and the image was misclassified as it is}.
        losses: {an attack's or a stage's name: float64 [T], its loss before each step, the mean of the images that it
            was still at work on}, of attacks along gradients.
        images: {an attack's name: float [N, C, H, W], the images that decided}, where they were asked for. Of an image
            that withstands it is the last that was tried, of several stages what the first one came to.
        warnings: what speaks against these figures, a line each.
    """

    correct: dict[str, Tensor] = field(default_factory=dict)
    queries: dict[str, Tensor] = field(default_factory=dict)
    not_finite: dict[str, Tensor] = field(default_factory=dict)
    classes: dict[str, Tensor] = field(default_factory=dict)
    margins: dict[str, Tensor] = field(default_factory=dict)
    stages: dict[str, tuple[str, ...]] = field(default_factory=dict)
    decided: dict[str, Tensor] = field(default_factory=dict)
    losses: dict[str, Tensor] = field(default_factory=dict)
    images: dict[str, Tensor] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def joined(self, other: "Outcomes") -> "Outcomes":
        """With what ``other`` found beside; of what both did, this one's."""
        merged: dict[str, Any] = {
            one.name: {**getattr(other, one.name), **getattr(self, one.name)}
            for one in fields(self)
            if one.name != "warnings"
        }
        return Outcomes(**merged, warnings=tuple(dict.fromkeys((*self.warnings, *other.warnings))))

    def accuracy(self) -> dict[str, float]:
        """In percent."""
        return {name: 100 * int(outcome.sum()) / len(outcome) for name, outcome in self.correct.items()}


def queries_of(name: str) -> str:
    """What a black box's queries are called in a journal."""
    return f"queries of {name}"


def class_under(name: str) -> str:
    """What the class under an attack is called in a journal."""
    return f"class under {name}"

"""What AutoAttack and its parts are made of, stage by stage (Croce & Hein, 2020, arXiv 2003.01690).

Each stage is one attack of one target on the images that the stages before it have not fooled. This module is data and
imports nothing heavy.
"""

from dataclasses import dataclass

from fastait.attacks.columns import PARTS, VERSIONS, Column
from fastait.runtime.errors import InputError

TARGETS = 9
"""At most so many classes are aimed at, those of the highest logits of the clean image."""

AVERAGED = 20
"""Gradients that ``autoattack-rand`` takes the mean of in each step."""

LEAST_CLASSES = {"apgd-ce": 2, "apgd-dlr": 3, "apgd-t": 4, "fab-t": 2, "square": 2}
"""What their losses need."""


@dataclass(frozen=True)
class Stage:
    """One attack on the images that withstood those before it.

    Attributes:
        attack: a key of ``columns.PARTS``.
        steps: its iterations.
        target: which class it aims at, by the rank of its logit among the wrong ones, from 1; 0 if none.
        averaged: gradients that each step takes the mean of.
    """

    attack: str
    steps: int
    target: int = 0
    averaged: int = 1

    @property
    def name(self) -> str:
        """What a journal calls it: columns that have the same stage share its outcomes."""
        mean = f" of {self.averaged}" if self.averaged > 1 else ""
        target = f" target {self.target}" if self.target else ""
        return f"{self.attack}-{self.steps}{mean}{target}"

    @property
    def passes(self) -> int:
        """What an image that stands to the end costs, in forward passes: a gradient is two more."""
        return self.steps if self.attack == "square" else 3 * self.steps * self.averaged


def stages(column: Column, classes: int) -> tuple[Stage, ...]:
    """The stages of a column of kind ``staged`` for a network that tells so many classes apart, in order.

    Raises:
        InputError: these are too few for an attack that is asked for by its own name, or one alone.
    """
    version = VERSIONS.get(column.name)
    least = min(LEAST_CLASSES[attack] for attack in version or [column.attack])
    if classes < least:
        raise InputError(
            f"--attacks: {column.name} needs at least {least} classes, there are {classes}; "
            "autoattack leaves out what two or three are too few for"
        )
    if version is None:
        return _of(column.attack, column.steps, classes)
    averaged = AVERAGED if column.name == "autoattack-rand" else 1
    found: list[Stage] = []
    for attack in version:
        if classes < LEAST_CLASSES[attack]:
            if attack != "apgd-t" or classes < LEAST_CLASSES["apgd-dlr"]:
                continue
            attack = "apgd-dlr"  # whose loss needs one class fewer
        found += _of(attack, PARTS[attack], classes, averaged)
    return tuple(found)


def said(column: Column, classes: int) -> str:
    """A line on what a version of AutoAttack is for so few classes; empty if it is what it is for many."""
    parts = list(dict.fromkeys(stage.attack for stage in stages(column, classes)))
    if column.name not in VERSIONS or parts == list(VERSIONS[column.name]):
        return ""
    return f"{column.name} of {classes} classes is {', '.join(parts)}: the others' losses need more"


def _of(attack: str, steps: int, classes: int, averaged: int = 1) -> tuple[Stage, ...]:
    if not attack.endswith("-t"):
        return (Stage(attack, steps, averaged=averaged),)
    return tuple(Stage(attack, steps, rank, averaged) for rank in range(1, min(TARGETS, classes - 1) + 1))

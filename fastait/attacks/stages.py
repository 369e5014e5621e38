"""What columns of several attacks are made of, stage by stage: AutoAttack and its parts (Croce & Hein, 2020, arXiv
2003.01690), restarts, and the worst of several columns.

Each stage is one attack of one target or restart on the images that the stages before it have not fooled. This module
is data and imports nothing heavy.
"""

from dataclasses import dataclass

from fastait.attacks.columns import PAPERS, PARTS, VERSIONS, Column, parse
from fastait.runtime.errors import InputError

TARGETS = 9
"""At most so many classes are aimed at, those of the highest logits of the clean image."""

AVERAGED = 20
"""Gradients that ``autoattack-rand`` takes the mean of in each step."""

LEAST_CLASSES = {"apgd-ce": 2, "apgd-dlr": 3, "apgd-t": 4, "fab-t": 2, "square": 2}
"""What their losses need."""


@dataclass(frozen=True)
class Attempt:
    """An ascent or a black box.

    Attributes:
        column: what is attempted, by the name of its own.
        restart: with which of its starts.
    """

    column: Column
    restart: int = 0

    @property
    def name(self) -> str:
        """What a journal calls it: the first one's outcomes are the column's."""
        return f"{self.column.name} restart {self.restart + 1}" if self.restart else self.column.name

    @property
    def steps(self) -> int:
        """Of the column."""
        return self.column.steps

    @property
    def along_gradients(self) -> bool:
        """Whether it follows any."""
        return self.column.ascent is not None


@dataclass(frozen=True)
class Stage:
    """One attack of AutoAttack.

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
    def along_gradients(self) -> bool:
        """Whether it follows any."""
        return self.attack != "square"

    @property
    def passes(self) -> int:
        """What an image that stands to the end costs, in forward passes: a gradient is two more."""
        return self.steps if self.attack == "square" else 3 * self.steps * self.averaged


def stages(column: Column, classes: int) -> tuple[Stage | Attempt, ...]:
    """What a column is made of for a network that tells so many classes apart (of no matter but to AutoAttack), in
    order, each stage once.

    Raises:
        InputError: these are too few for an attack that is asked for by its own name, or one alone.
    """
    if column.kind == "autoattack":
        return _of_autoattack(column, classes)
    if column.parts:
        return tuple(dict.fromkeys(stage for part in column.parts for stage in stages(part, classes)))
    if not column.in_stages or column.ascent is None:
        return (Attempt(column),)
    once = parse(PAPERS.get(column.name, column.name).rpartition("-min")[0])
    return tuple(Attempt(once, restart) for restart in range(column.ascent.restarts))


def _of_autoattack(column: Column, classes: int) -> tuple[Stage, ...]:
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
    if column.name not in VERSIONS:
        return ""
    parts = list(dict.fromkeys(stage.attack for stage in _of_autoattack(column, classes)))
    if parts == list(VERSIONS[column.name]):
        return ""
    return f"{column.name} of {classes} classes is {', '.join(parts)}: the others' losses need more"


def _of(attack: str, steps: int, classes: int, averaged: int = 1) -> tuple[Stage, ...]:
    if not attack.endswith("-t"):
        return (Stage(attack, steps, averaged=averaged),)
    return tuple(Stage(attack, steps, rank, averaged) for rank in range(1, min(TARGETS, classes - 1) + 1))

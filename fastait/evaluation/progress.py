"""How far an evaluation is: what is worked on, how many images stand, and what is left to do.

What is to do is counted in forward passes of a single image; a gradient is three.
"""

import time
from collections.abc import Sequence

from torch import Tensor

from fastait.attacks.columns import Column, groups
from fastait.attacks.local_search import CANDIDATES
from fastait.attacks.stages import Attempt, Stage, stages


class Effort:
    """Of one evaluation after the other, as they go.

    Args:
        evaluations: the ``total`` of each that is to be, in order; those that nothing is said of count for nothing
            until they begin.

    Attributes:
        part: what is being attacked by, such as ``autoattack, apgd-t target 3 of 9``.
        images: how many images this process measures.
        standing: how many of them are not known to be fooled by it so far.
    """

    def __init__(self, evaluations: Sequence[float] = ()):
        self.part = "getting ready"
        self.images = self.standing = 0
        self._later = list(evaluations)
        self._costs: list[float] = []
        self._cost = self._after = self._batch = self._done = 0.0
        self._left = self._standing_before = 0
        self._begun: float | None = None

    def plan(self, costs: Sequence[float], images: int) -> None:
        """An evaluation begins, of groups of columns that take so many passes of each image, in order."""
        del self._later[:1]
        self._costs, self.images, self._left = list(costs), images, 0

    def begin(self) -> None:
        """The next group begins, or is found to be done already."""
        del self._costs[:1]
        self._left = self.standing = 0

    def work(self, part: str, cost: float, images: int, standing: int, after: float = 0.0) -> None:
        """So many images are to be attacked, which takes ``cost`` passes of each; ``standing`` of all are not fooled.

        What of the group comes afterwards takes ``after`` passes of each of those.
        """
        self.part, self.standing = part, standing
        self._cost, self._after, self._left = cost, after, images
        self._standing_before, self._batch = standing, 0.0

    def passed(self, x: Tensor) -> None:
        """A pass of ``x``, float [B, C, H, W], begins."""
        if self._begun is None:
            self._begun = time.monotonic()
        many = len(x) * (3 if x.requires_grad else 1)
        self._done += many
        self._batch += many

    def stand(self, batch: int, standing: int) -> None:
        """So many of the images of the batch in hand stand so far."""
        self.standing = self._standing_before - (batch - standing)

    def finished(self, images: int, fooled: int) -> None:
        """A batch of so many images is done with."""
        self._left -= images
        self._standing_before -= fooled
        self.standing, self._batch = self._standing_before, 0.0

    @property
    def left(self) -> float:
        """Passes that are left, of all evaluations, as if no image fell any more."""
        here = max(0.0, self._left * self._cost - self._batch) + self.standing * self._after
        return here + sum(self._costs) * self.images + sum(self._later)

    @property
    def seconds(self) -> float | None:
        """That the rest takes at the pace so far; None before there is one."""
        if self._begun is None or not self._done:
            return None
        return self.left * (time.monotonic() - self._begun) / self._done


def costs(columns: Sequence[Column], classes: int) -> list[float]:
    """The ``passes`` of an image, clean and for each group of columns."""
    return [1, *(max(passes(column, classes) for column in group) for group in groups(columns))]


def passes(column: Column, classes: int) -> float:
    """What a column takes of an image that withstands it, for a network that tells so many classes apart.

    Raises:
        InputError: they are too few for it.
    """
    if column.in_stages:
        return sum(map(stage_passes, stages(column, classes)))
    return _passes(column)


def stage_passes(stage: Stage | Attempt) -> float:
    """What a stage takes of an image that withstands it."""
    return _passes(stage.column) if isinstance(stage, Attempt) else stage.passes


def _passes(column: Column) -> float:
    if column.kind == "spsa":
        return column.steps * (2 * column.directions + 1)
    if column.kind == "local-search":
        return column.steps * CANDIDATES
    assert column.ascent is not None
    return 3 * column.steps * column.ascent.eot


def called(column: str, stage: Stage | Attempt, of: Sequence[Stage | Attempt]) -> str:
    """What is said of a stage of a column: its attack and, of several targets or restarts, which."""
    if isinstance(stage, Attempt):
        attack, number, kind = stage.column.name, stage.restart + 1, "restart"
        count = sum(isinstance(other, Attempt) and other.column == stage.column for other in of)
    else:
        attack, number, kind = stage.attack, stage.target, "target"
        count = max(other.target for other in of if isinstance(other, Stage) and other.attack == attack)
    which = f" {kind} {number} of {count}" if count > 1 else ""
    return f"{column}, {attack}{which}" if column != attack else f"{column}{which}"

"""Where our figures put two models in another order than the paper's do."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import hypot

from fastait.evaluation.intervals import wilson
from fastait.reproduction.measured import Figure, Mean, count_of


@dataclass(frozen=True)
class Entry:
    """A figure of a table: ours, None if it could not be measured, and the paper's in percent, None if it has none."""

    ours: Figure | None
    paper: float | None

    @property
    def difference(self) -> float | None:
        """Ours less the paper's, in points."""
        return None if self.ours is None or self.paper is None else self.ours.accuracy - self.paper


PAPERS_NOISE = 1.0
"""Points by which the paper's own figures must differ to be ordered: about its 95 % interval on 10,000 images."""

Series = tuple[str, Sequence[tuple[str, Entry]]]
"""Figures that are compared: what they are figures of (an attack), and each model's."""


def compare(series: Sequence[Series]) -> list[str]:
    """Sentences on the order of each two models in each of ``series``: a first one for all, and one for two models.

    Two figures are marked as within the noise whose 95 % intervals (Wilson) overlap, or, of several trainings each,
    whose means are nearer than two standard errors of their difference. Figures that are nearer than ``PAPERS_NOISE``
    in the paper have no order there.
    """
    counts: Counter[str] = Counter()
    contrary: dict[tuple[str, str], list[str]] = defaultdict(list)
    sizes: set[int] = set()
    trainings = 1
    for what, entries in series:
        for (first, a), (second, b) in combinations(entries, 2):
            if a.ours is None or b.ours is None or a.paper is None or b.paper is None:
                continue
            if abs(a.paper - b.paper) < PAPERS_NOISE:
                continue
            paper, ours = a.paper - b.paper, a.ours.accuracy - b.ours.accuracy
            kind = "equal" if ours == 0 else "alike" if (ours > 0) == (paper > 0) else "contrary"
            counts[kind] += 1
            if kind == "contrary":
                noise = "*" if _overlap(a.ours, b.ours) else ""
                sizes.update((a.ours.n, b.ours.n))
                trainings = max(trainings, count_of(a.ours), count_of(b.ours))
                contrary[first, second].append(f"{what} ({paper:+.1f} in the paper, here {ours:+.1f}{noise})")
    if not counts:
        return []
    equal = f", {counts['equal']} equal" if counts["equal"] else ""
    pairs = (
        f"Of the {counts.total()} pairs of figures that the paper puts a point or more apart, {counts['alike']} are "
        f"ordered alike{equal}"
    )
    if not contrary:
        return [f"{pairs}: no ordering differs from the paper's."]
    many = f"within the noise of {' and '.join(map(str, sorted(sizes)))} images"
    each = f"one training each; * {many}"
    if trainings > 1:
        each = f"means of {trainings} trainings each; * nearer than two standard errors"
    return [
        f"{pairs} and {counts['contrary']} the other way. These are (the first one's figure less the second's, {each}"
        "):",
        *(f"{first} and {second}: {'; '.join(where)}." for (first, second), where in contrary.items()),
    ]


def _overlap(a: Figure, b: Figure) -> bool:
    if isinstance(a, Mean) and isinstance(b, Mean):
        return abs(a.accuracy - b.accuracy) < 2 * hypot(a.standard_error, b.standard_error)
    if isinstance(a, Mean) or isinstance(b, Mean):
        return False  # a seed of one of them is missing, as the table says
    (low_a, high_a), (low_b, high_b) = wilson(a.correct, a.n), wilson(b.correct, b.n)
    return low_a <= high_b and low_b <= high_a

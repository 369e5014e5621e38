"""Which classes fall under the strongest attack, and into which others."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fastait.evaluation.intervals import cell
from fastait.evaluation.outcomes import CLEAN, NO_CLASS
from fastait.evaluation.results import LEADING, Evaluation
from fastait.report.compared import Entry
from fastait.runtime.report import epsilon_text

MATRIX = 20
"""Classes that a matrix is drawn of; of more the worst are listed."""


@dataclass(frozen=True)
class ClassRow:
    """A class: its name, its images, accuracy on clean and on attacked ones, and what else they are taken for."""

    name: str
    n: int
    clean: str
    attacked: str
    taken_for: str


@dataclass(frozen=True)
class Confusion:
    """Of a model under an attack.

    Attributes:
        title: what it is of.
        series: the model's place among the page's series.
        attack: the strongest one.
        rows: the classes, those first that withstand least.
        omitted: how many classes are left out.
        names: of the matrix's rows and columns; empty if there are too many classes.
        matrix: for each class how many of its images are taken for each, and that as a share of ten.
    """

    title: str
    series: int
    attack: str
    rows: Sequence[ClassRow]
    omitted: int
    names: Sequence[str]
    matrix: Sequence[Sequence[tuple[int, int]]]


def confusions(entries: Sequence[Entry]) -> list[Confusion]:
    """Of each model whose classes were written down."""
    return [found for entry in entries if (found := _confusion(entry)) is not None]


def strongest(e: Evaluation) -> str | None:
    """The attack on all images that fewest withstand, of those whose classes are known; None if there is none."""
    known = [name for name in e.attacks() if bool((e.outcomes.classes.get(name, _NONE) != NO_CLASS).any())]
    order = {name: place for place, name in enumerate(LEADING)}
    return min(known, key=lambda name: (e.count(name), order.get(name, len(order))), default=None)


_NONE = Tensor()


def _confusion(entry: Entry) -> Confusion | None:
    e = entry.evaluations[entry.shown]
    attack = strongest(e)
    labels = entry.measurement.labels.get(e.images(CLEAN))
    if attack is None or labels is None:
        return None
    correct, clean, taken = e.outcomes.correct[attack], e.outcomes.correct[CLEAN], e.outcomes.classes[attack]
    rows = []
    for label in sorted(set(labels.tolist())):
        here = labels == label
        n, right = int(here.sum()), int((correct & here).sum())
        others = Counter(taken[here & ~correct].tolist()).most_common()
        # Equal counts in the order of the classes, whatever the order of the images.
        others = sorted(others, key=lambda one: (-one[1], one[0]))[:3]
        said = ", ".join(f"{entry.measurement.class_name(other)} ({count})" for other, count in others)
        row = ClassRow(entry.measurement.class_name(label), n, cell(int((clean & here).sum()), n), cell(right, n), said)
        rows.append((right / n, label, row))
    rows.sort(key=lambda one: one[:2])
    names, matrix = _matrix(entry, labels, taken)
    return Confusion(
        f"{entry.name}, Linf {epsilon_text(entry.shown)}, under {attack}",
        entry.series,
        attack,
        [row for *_, row in rows[:MATRIX]],
        max(0, len(rows) - MATRIX),
        names,
        matrix,
    )


def _matrix(entry: Entry, labels: Tensor, taken: Tensor) -> tuple[list[str], list[list[tuple[int, int]]]]:
    present = sorted({*labels.tolist(), *taken.tolist()})
    if len(present) > MATRIX + 1:
        return [], []
    matrix = []
    for label in present:
        here = taken[labels == label]
        counts = [int((here == other).sum()) for other in present]
        matrix.append([(count, round(10 * count / max(1, len(here)))) for count in counts])
    return [entry.measurement.class_name(label) for label in present], matrix
